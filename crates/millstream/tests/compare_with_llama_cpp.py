"""Compares a GGUF export with llama.cpp: the same file, the same prompt ids, greedy tokens and tokens a second.

    pip install llama-cpp-python numpy
    cargo build --release
    python crates/millstream/tests/compare_with_llama_cpp.py target/release/millstream MODEL [--threads 2] [--tokens 64]

MODEL is a folder of a run or of a Llama model with a byte-level tokenizer. For each number format it exports a GGUF file,
lets both draw from it, and prints whether texts and tokenizers agree and how fast each was. llama.cpp multiplies blocks
with inputs rounded to 8 bits, millstream to 16: with q8 and q4 greedy texts may part where two tokens are
nearly as likely.
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

import llama_cpp


def ours(program: str, model: str, weights: str, prompt: str, tokens: int) -> tuple[list[int], list[int]]:
    command = [program, "generate", model, "--weights", weights, "--prompt", prompt, "--temperature", "0", "--json",
               "--tokens", str(tokens), "--top-logprobs", "1"]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return answer["prompt_ids"], [token["id"] for token in answer["samples"][0]["tokens"]]


def theirs(llama: llama_cpp.Llama, prompt: list[int], tokens: int) -> tuple[list[int], float]:
    llama.reset()
    llama.eval(prompt)
    drawn, begin = [], None
    for _ in range(tokens):
        drawn.append(int(llama.sample(temp=0.0, repeat_penalty=1.0)))
        begin = begin or time.perf_counter()
        if len(drawn) < tokens:
            llama.eval([drawn[-1]])
    return drawn, (tokens - 1) / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("--prompt", default="The ")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--weights", nargs="+", default=["f32", "f16", "q8", "q4"])
    args = parser.parse_args()
    for weights in args.weights:
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / "model.gguf"
            convert = [args.program, "convert", args.model, str(path), "--to", "gguf", "--dtype", weights]
            subprocess.run(convert, check=True, capture_output=True)
            llama = llama_cpp.Llama(str(path), n_ctx=0, n_threads=args.threads, verbose=False, logits_all=False)
            prompt, drawn = ours(args.program, args.model, weights, args.prompt, args.tokens)
            found, per_s = theirs(llama, prompt, len(drawn))
            ids = llama.tokenize(args.prompt.encode(), add_bos=True, special=False)
            same = next((n for n, (a, b) in enumerate(zip(drawn, found)) if a != b), len(drawn))
            tokenizer = "same" if ids == prompt else f"DIFFERENT: {ids}, not {prompt}"
            print(f"{weights:4}  {same} of {len(drawn)} greedy tokens are the same; prompt ids {tokenizer}; "
                  f"llama.cpp {per_s:.1f} tokens/s")


if __name__ == "__main__":
    main()
