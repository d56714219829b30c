"""Speed of generation against llama.cpp's, of a Llama with random weights, on the same machine in turns.

    pip install llama-cpp-python numpy safetensors
    cargo build --release
    python crates/millstream/tests/speed_against_llama_cpp.py target/release/millstream [--rounds 3] [--d 2048] ...

Writes a model without a tokenizer, exports it as GGUF in each number format, and alternates: llama.cpp reads a prompt and
draws tokens after it, then `millstream bench --only generation` does so with a model of the same shape. Prints the middle of
the rounds and our speed as a share of llama.cpp's.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import llama_cpp
import numpy as np
from safetensors.numpy import save_file

FORMATS = ["f32", "f16", "q8", "q4"]
DRAWN = 63


def write_model(folder: Path, shape: argparse.Namespace) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": shape.d, "vocab_size": shape.vocab,
        "intermediate_size": shape.ff, "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads, "max_position_embeddings": shape.seq, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": False, "hidden_act": "silu", "torch_dtype": "float32",
        "bos_token_id": None, "eos_token_id": None,
    }
    (folder / "config.json").write_text(json.dumps(config))
    draw = np.random.default_rng(1)
    kv = shape.d // shape.heads * shape.kv_heads

    def matrix(*dims: int) -> np.ndarray:
        return draw.uniform(-0.025, 0.025, dims).astype(np.float32)

    ones = np.ones(shape.d, np.float32)
    weights = {"model.embed_tokens.weight": matrix(shape.vocab, shape.d), "model.norm.weight": ones,
               "lm_head.weight": matrix(shape.vocab, shape.d)}
    for layer in range(shape.layers):
        at = f"model.layers.{layer}."
        dims = {"self_attn.q_proj": (shape.d, shape.d), "self_attn.k_proj": (kv, shape.d), "self_attn.v_proj": (kv, shape.d),
                "self_attn.o_proj": (shape.d, shape.d), "mlp.gate_proj": (shape.ff, shape.d), "mlp.up_proj": (shape.ff, shape.d),
                "mlp.down_proj": (shape.d, shape.ff)}
        weights |= {f"{at}{name}.weight": matrix(*size) for name, size in dims.items()}
        weights |= {f"{at}input_layernorm.weight": ones, f"{at}post_attention_layernorm.weight": ones}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def theirs(path: Path, shape: argparse.Namespace) -> tuple[float, float]:
    llama = llama_cpp.Llama(str(path), n_ctx=shape.seq, n_threads=shape.threads, n_threads_batch=shape.threads, n_batch=shape.seq,
                            n_ubatch=shape.seq, verbose=False)
    prompt = [i * 7919 % shape.vocab for i in range(shape.seq // 2)]
    llama.eval(prompt[:4])
    llama.reset()
    begin = time.perf_counter()
    llama.eval(prompt)
    prompt_s = time.perf_counter() - begin
    times = []
    for i in range(DRAWN):
        begin = time.perf_counter()
        llama.eval([100 + i])
        times.append(time.perf_counter() - begin)
    llama.close()
    return len(prompt) / prompt_s, 1.0 / statistics.median(times)


def ours(program: str, shape: argparse.Namespace) -> dict[str, tuple[float, float]]:
    sizes = ["d", "layers", "heads", "kv-heads", "ff", "vocab", "seq", "threads"]
    asked = [f"--{name}={getattr(shape, name.replace('-', '_'))}" for name in sizes]
    answer = subprocess.run([program, "bench", "--only", "generation", "--json", *asked], check=True, capture_output=True)
    found = json.loads(answer.stdout)["generation"]["weights"]
    return {one["format"]: (one["prompt_tokens_per_s"], one["tokens_per_s"]) for one in found}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    for name, value in [("d", 2048), ("layers", 4), ("heads", 16), ("kv-heads", 16), ("ff", 5632), ("vocab", 32000),
                        ("seq", 1024), ("threads", 2), ("rounds", 3)]:
        parser.add_argument(f"--{name}", type=int, default=value)
    shape = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        folder.mkdir()
        write_model(folder, shape)
        files = {name: Path(place) / f"{name}.gguf" for name in FORMATS}
        for name, path in files.items():
            convert = [shape.program, "convert", str(folder), str(path), "--to", "gguf", "--dtype", name]
            subprocess.run(convert, check=True, capture_output=True)
        rounds = []
        for _ in range(shape.rounds):
            before = {name: theirs(path, shape) for name, path in files.items()}
            rounds.append((before, ours(shape.program, shape)))
    print("weights  prompt tokens/s: llama.cpp, ours, ratio   drawn tokens/s: llama.cpp, ours, ratio")
    for name in FORMATS:
        cells = []
        for which in range(2):
            pair = [statistics.median(found[side][name][which] for found in rounds) for side in range(2)]
            ratio = statistics.median(found[1][name][which] / found[0][name][which] for found in rounds)
            cells.append(f"{pair[0]:8.1f} {pair[1]:8.1f}  {ratio:.2f}")
        print(f"{name:7}  {cells[0]:36}  {cells[1]}")


if __name__ == "__main__":
    main()
