"""Compares the logits of `millstream eval --tokens --logits` with those of transformers on the same folders.

    python compare_with_transformers.py MILLSTREAM RUN     the exported model of a run, or a model's folder
    python compare_with_transformers.py MILLSTREAM         random folders of all families written by transformers

MILLSTREAM is the program, RUN a folder of `millstream train`. Prints the largest difference of each comparison and
fails when one is not below 1e-4. Random folders also go there and back: `millstream train --from` trains a step of next
to nothing on two stages and exports; transformers must find the same weights, bit for bit, and the same configuration.
Needs torch, transformers, tokenizers and safetensors (made with torch 2.15, transformers 5.24).
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
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
FULL, SLIDING = "full_attention", "sliding_attention"
LLAMA = {
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
# As `PLAIN`, of a transformer whose windows are shorter than the 101 tokens read.
WINDOW = dict(sliding_window=19)
BY_LAYER = dict(use_sliding_window=True, layer_types=[SLIDING, FULL, SLIDING]) | WINDOW
LINEAR = dict(rope_type="linear", factor=4.0)
BASES = {FULL: dict(rope_type="default", rope_theta=1e5), SLIDING: dict(rope_type="default", rope_theta=1e3)}
ODD = dict(hidden_size=54, num_attention_heads=9, num_key_value_heads=3, head_dim=10, tie_word_embeddings=True)
IDS = dict(bos_token_id=1, eos_token_id=2, pad_token_id=0)
RANDOM = [(name, "llama", PLAIN | sizes) for name, sizes in LLAMA.items()] + [
    (f"{family}, {name}", family, PLAIN | IDS | sizes)
    for family, cases in {
        "mistral": {
            "window": dict(num_key_value_heads=2) | WINDOW,
            "no window": dict(sliding_window=None, rms_norm_eps=1e-3),
            "odd": ODD | dict(sliding_window=1),
        },
        "qwen2": {
            "no window": dict(num_key_value_heads=1),
            "window from layer 1": dict(use_sliding_window=True, max_window_layers=1) | WINDOW,
            "odd": ODD | BY_LAYER,
        },
        "qwen3": {
            "no window": dict(head_dim=16, num_key_value_heads=2),
            "biases, windows": dict(head_dim=6, attention_bias=True) | BY_LAYER,
            "odd, scaled": ODD | dict(rope_parameters=LINEAR | dict(rope_theta=1e4)),
        },
        "gemma3_text": {
            "pattern of six": dict(num_hidden_layers=7, head_dim=14, query_pre_attn_scalar=12) | WINDOW,
            "windows, bases": dict(
                head_dim=12, layer_types=[FULL, SLIDING, FULL], rope_parameters=BASES, tie_word_embeddings=True
            ) | WINDOW,
            "odd, scaled": ODD | WINDOW | dict(
                attention_bias=True, layer_types=[SLIDING, SLIDING, FULL], query_pre_attn_scalar=31,
                rope_parameters=BASES | {FULL: LINEAR | dict(rope_theta=1e6)},
            ),
        },
        "phi3": {
            "window": dict(num_key_value_heads=2) | WINDOW,
            "no window": dict(sliding_window=None),
            "odd": ODD | WINDOW,
        },
        "olmo2": {
            "grouped": dict(num_key_value_heads=2),
            "biases": dict(attention_bias=True, rms_norm_eps=1e-3),
            "odd": ODD | dict(rope_parameters=dict(rope_type="default", rope_theta=5e5)),
        },
    }.items()
    for name, sizes in cases.items()
] + [
    (f"gpt2, {name}", "gpt2", dict(vocab_size=311, n_layer=3, n_positions=128, initializer_range=0.2) | IDS | sizes)
    for name, sizes in {
        "tied": dict(n_embd=48, n_head=4),
        "untied": dict(n_embd=49, n_head=7, n_inner=67, tie_word_embeddings=False),
        "odd heads": dict(n_embd=45, n_head=3, n_inner=31, layer_norm_epsilon=1e-3),
    }.items()
]


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
    print(f"{name:<28} largest difference {difference:.2e}, largest logit {largest:.3f}")
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
    for seed, (name, family, fields) in enumerate(RANDOM):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **json.loads(json.dumps(fields)))).float()
        with torch.no_grad():
            for parameter in model.parameters():
                # Fresh norms are ones and fresh biases zeros: errors in them would not show.
                if parameter.dim() == 1:
                    parameter += 0.3 * torch.randn_like(parameter)
        ids = torch.randint(0, PLAIN["vocab_size"], (101,)).tolist()
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch, "model")
            model.save_pretrained(folder)
            show(name, folder, compare(millstream, folder, ids))
            there_and_back(millstream, folder, Path(scratch, "run"))


# What concerns the file and not the model: the layer from which windows begin, where `layer_types` says it of each, and
# dropout, which acts in training alone.
BESIDE = {"_name_or_path", "architectures", "dtype", "transformers_version", "max_window_layers", "attn_pdrop",
          "embd_pdrop", "resid_pdrop", "rope_theta", "rope_local_base_freq", "_sliding_window_pattern"}

RUN_FILE = """
steps = 1
[data]
sequence_length = 16
[model]
from = {folder}
[batch]
rows = 2
[pipeline]
stages = 2
[optimizer]
learning_rate = 1e-40
weight_decay = 0
"""


def there_and_back(millstream, folder, run):
    bytes_only = Tokenizer(models.BPE(
        vocab={token: id for id, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()) + ["<|endoftext|>"])},
        merges=[],
    ))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    bytes_only.add_special_tokens(["<|endoftext|>"])
    bytes_only.save(str(folder / "tokenizer.json"))
    run_file = folder / "run.toml"
    run_file.write_text(RUN_FILE.format(folder=json.dumps(str(folder))))
    subprocess.run([millstream, "train", run_file, "--out", run], check=True, capture_output=True)
    before, after = (AutoModelForCausalLM.from_pretrained(f, dtype=torch.float32) for f in (folder, run / "model"))
    names = [{name for name, _ in model.named_parameters()} for model in (before, after)]
    assert names[0] == names[1], f"{folder}: {names[0] ^ names[1]}"
    others = dict(after.named_parameters())
    for name, parameter in before.named_parameters():
        assert torch.equal(parameter, others[name]), f"{folder}: {name} came back changed"
    configs = [{k: v for k, v in model.config.to_dict().items() if k not in BESIDE} for model in (before, after)]
    assert configs[0] == configs[1], f"{folder}: {configs}"


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
