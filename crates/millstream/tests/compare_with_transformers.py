"""Compares the logits of `millstream eval --tokens --logits` with those of transformers on the same folders.

    python compare_with_transformers.py MILLSTREAM RUN     the exported model of a run, or a model's folder
    python compare_with_transformers.py MILLSTREAM         random Llama folders written by transformers

MILLSTREAM is the program, RUN a folder of `millstream train`. Prints the largest difference of each comparison and
fails when one is not below 1e-4. Needs torch, transformers and safetensors (made with torch 2.15, transformers 5.23).
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

# Both compute in f32 and are up to 2e-5 off the same model in f64 (random folders, logits up to 7).
LIMIT = 1e-4

# Sizes are prime and different where they can be.
PLAIN = dict(
    vocab_size=311,
    hidden_size=48,
    intermediate_size=67,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=4,
    max_position_embeddings=128,
    tie_word_embeddings=False,
    # Large enough for logits that depend on every part.
    initializer_range=0.2,
)
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=500000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
RANDOM = {
    "plain": {},
    "grouped queries": dict(num_key_value_heads=2),
    "one key head": dict(num_key_value_heads=1),
    "7 heads": dict(hidden_size=56, num_attention_heads=7, num_key_value_heads=7),
    "9 heads sharing 3": dict(hidden_size=54, num_attention_heads=9, num_key_value_heads=3),
    "head_dim 10": dict(hidden_size=35, num_attention_heads=5, num_key_value_heads=5, head_dim=10),
    "attention biases": dict(attention_bias=True, num_key_value_heads=2),
    "MLP biases": dict(mlp_bias=True),
    "tied head": dict(tie_word_embeddings=True),
    "llama3 scaling": dict(rope_parameters=LLAMA3),
    "theta, epsilon": dict(rope_parameters=dict(rope_type="default", rope_theta=1234.5), rms_norm_eps=1e-3),
    "all of it": dict(
        hidden_size=45,
        num_attention_heads=9,
        num_key_value_heads=3,
        head_dim=6,
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=True,
        rope_parameters=LLAMA3,
    ),
}


def compare(millstream, folder, ids):
    """The largest difference between both programs' logits [tokens, vocab], and the largest logit."""
    with tempfile.TemporaryDirectory() as scratch:
        tokens, out = Path(scratch, "ids.json"), Path(scratch, "logits.safetensors")
        tokens.write_text(json.dumps(ids))
        command = [millstream, "eval", folder, "--tokens", tokens, "--logits", out]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        ours = load_file(out)["logits"]
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    )
    with torch.no_grad():
        theirs = model(torch.tensor([ids])).logits[0]
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return (ours - theirs).abs().max().item(), theirs.abs().max().item()


def show(name, folder, figures):
    difference, largest = figures
    print(f"{name:<18} largest difference {difference:.2e}, largest logit {largest:.3f}")
    assert difference < LIMIT, f"{folder}: {difference} is not below {LIMIT}"


def of_run(millstream, folder):
    model = folder / "model" if (folder / "model").is_dir() else folder
    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    config = json.loads((model / "config.json").read_text())
    text = "The hacker said: \"it's a feature\", and wrote 42 lines of C.\n\n\tNaïve? 中文 😀 " * 8
    ids = tokenizer(text)["input_ids"][: config["max_position_embeddings"]]
    back = tokenizer.decode(tokenizer(text)["input_ids"])
    assert back == text, f"the tokenizer does not give the text back: {back!r}"
    show(f"{folder.name}, {len(ids)} tokens", model, compare(millstream, model, ids))


def of_random(millstream):
    for seed, (name, sizes) in enumerate(RANDOM.items()):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**PLAIN | sizes))
        with torch.no_grad():
            for parameter in model.parameters():
                # Fresh norms are ones and fresh biases zeros: errors in them would not show.
                if parameter.dim() == 1:
                    parameter += 0.3 * torch.randn_like(parameter)
        ids = torch.randint(0, PLAIN["vocab_size"], (101,)).tolist()
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            show(name, folder, compare(millstream, folder, ids))


def main():
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    match sys.argv[1:]:
        case [millstream, run]:
            of_run(millstream, Path(run))
        case [millstream]:
            of_random(millstream)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
