"""Checks what `millstream plan --emit` writes with the trainers' own definitions.

    pip install --no-deps --target trainers megatron-core==0.16.1 torchtitan==0.3.0
    millstream plan ... --emit megatron > options.txt;  millstream plan ... --trainer torchtitan --emit torchtitan > titan.toml
    python emitted.py trainers LAYERS options.txt titan.toml

Every option that Megatron-Core has a field for is given to its TransformerConfig or DistributedDataParallelConfig, which
check them together, and the number of microbatches is made by its calculator; the layout of stages is parsed and validated
by its class. Every key of torchtitan's sections is a field of its configuration classes with a value of that type.
(Megatron-LM's argument parser is not on PyPI: the options that are left are printed. Needs torch.)
"""

import sys
import tomllib
from pathlib import Path


def value(text):
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text.strip("'")


def options_of(path):
    """`--a-b 3` as a_b = 3, a flag alone as True; several may share a line."""
    import shlex

    words, options = shlex.split(Path(path).read_text()), {}
    for at, word in enumerate(words):
        if word.startswith("--"):
            follows = at + 1 < len(words) and not words[at + 1].startswith("--")
            options[word[2:].replace("-", "_")] = value(words[at + 1]) if follows else True
    return options


def megatron(path, n_layers):
    import dataclasses

    from megatron.core.distributed import DistributedDataParallelConfig
    from megatron.core.num_microbatches_calculator import ConstantNumMicroBatchesCalculator
    from megatron.core.transformer.pipeline_parallel_layer_layout import PipelineParallelLayerLayout
    from megatron.core.transformer.transformer_config import TransformerConfig

    options = options_of(path)
    left = dict(options)
    # As training does before it makes its configuration; sizes that no option names do not matter.
    layout = options.get("pipeline_model_parallel_layout")
    stages = options["pipeline_model_parallel_size"]
    if layout is not None:
        parsed = PipelineParallelLayerLayout(layout, stages)
        parsed.validate_layer_layout(num_layers=n_layers, mtp_num_layers=0)
        print(f"{path}: {layout} is a layout of {n_layers} layers in {parsed.virtual_pipeline_model_parallel_size} virtual stages a rank")
    sizes = dict(num_layers=n_layers, hidden_size=8192, num_attention_heads=64)
    experts = dict(num_moe_experts=64) if "expert_model_parallel_size" in options else {}
    # Megatron-LM gives pipelines their number format.
    made = {"pipeline_dtype": "bf16"}
    known = {field.name for field in dataclasses.fields(TransformerConfig)}
    given = {name: left.pop(name) for name in options if name in known}
    if layout is not None:
        made["virtual_pipeline_model_parallel_size"] = parsed.virtual_pipeline_model_parallel_size
    config = TransformerConfig(**sizes, **experts, **made, **given)
    known = {field.name for field in dataclasses.fields(DistributedDataParallelConfig)}
    DistributedDataParallelConfig(**{name: left.pop(name) for name in list(left) if name in known})
    rows, microbatch = left.pop("global_batch_size"), left.pop("micro_batch_size")
    n = ConstantNumMicroBatchesCalculator(rows, microbatch, 1, False, 0).get()
    print(f"{path}: Megatron-Core takes {len(options) - len(left)} options ({config.pipeline_model_parallel_size} stages, {n} microbatches where there is one replica); left: {sorted(left)}")


def fields(source, name):
    """Fields and their types of a configuration class, read from its source: importing it needs all of torchtitan."""
    import ast

    tree = ast.parse(source)
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == name]
    return {node.target.id: ast.unparse(node.annotation) for node in classes[0].body if isinstance(node, ast.AnnAssign)}


def torchtitan(folder, path):
    source = (Path(folder) / "torchtitan/config/configs.py").read_text()
    known = {"training": fields(source, "TrainingConfig"), "parallelism": fields(source, "ParallelismConfig")}
    kinds = {int: "int", str: "str", list: "list[list[str]] | None"}
    for section, values in tomllib.loads(Path(path).read_text()).items():
        for key, value in values.items():
            if section in known:
                assert known[section][key] == kinds[type(value)], f"{section}.{key} = {value!r}: {known[section][key]}"
    print(f"{path}: every key of [training] and [parallelism] is torchtitan's, with a value of its type")


if __name__ == "__main__":
    folder, n_layers, options, titan = sys.argv[1:]
    sys.path.insert(0, folder)
    torchtitan(folder, titan)
    megatron(options, int(n_layers))
