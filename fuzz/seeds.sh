#!/bin/sh
# Fills corpus/TARGET with inputs to start from: fixtures, presets, seeds/, and the finds of earlier runs.
set -e
cd "$(dirname "$0")"
crates=../crates
for target in $(sed -n 's/^name = "\(.*\)"$/\1/p' Cargo.toml | grep -v millstream); do
    mkdir -p corpus/$target
    for kind in finds seeds; do
        for file in $kind/$target/*; do
            if [ -f "$file" ]; then cp "$file" corpus/$target/; fi
        done
    done
done
for file in $crates/model/tests/fixtures/*/*/config.json $crates/architecture/tests/fixtures/[lp]*.json; do
    name=$(echo "$file" | tr -c 'a-z0-9\n' _)
    cp "$file" corpus/config/$name
    { printf '\000'; cat "$file"; } > corpus/folder/$name
done
cp $crates/schedule/tests/fixtures/pytorch/*.csv corpus/schedule_csv/
cp $crates/corpus/tests/fixtures/byte-level.json $crates/corpus/tests/fixtures/llama-like.json corpus/tokenizer/
cp $crates/millstream/presets/*.toml corpus/run_file/
printf 'preset = "small"\000pipeline.stages=2\000data.paths=["/"]\000model.num_hidden_layers=4' > corpus/run_file/options
awk '/^```toml/ { n++; inside = 1; next } /^```/ { inside = 0 } inside { print > ("corpus/simulation_file/" n ".toml") }' ../docs/simulate.md
printf 'ranks = 4\nmicrobatches = 8\nschedule = "zb-v"\n\000costs.forward_us=[1,2,1,1]\000links.latency_us=2' > corpus/simulation_file/options
printf '\001{"eos_token_id": [2, 5], "temperature": 0.6, "top_k": 50, "top_p": 0.9}' > corpus/folder/generation
printf '\003{"eos_token": {"content": "</s>"}, "bos_token": "<s>"}' > corpus/folder/tokenizer
which=0
for ending in parquet jsonl txt txt.gz jsonl.zst jsonl.gz; do
    for file in $crates/corpus/tests/fixtures/sources/*.$ending; do
        if [ -f "$file" ]; then { printf "\\00$which"; cat "$file"; } > corpus/text/$(basename "$file"); fi
    done
    which=$((which + 1))
done
cp $crates/corpus/tests/fixtures/sentencepiece/*.model corpus/sentencepiece/
cp $crates/corpus/tests/fixtures/chat/*.jinja corpus/chat_template/
printf '\001{"text": "The mill turns."}\n{"text": "It turns."}\n' > corpus/text/lines
printf '\002The mill turns.\n\nIt turns.\n' > corpus/text/plain
