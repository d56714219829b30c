"""Checks what `millstream plan --emit` writes with the trainers' own definitions.

    pip install --no-deps --target trainers megatron-core==0.16.1 torchtitan==0.3.0
    millstream plan ... --emit megatron > options.txt;  millstream plan ... --trainer torchtitan --emit torchtitan > titan.toml
    python emitted.py trainers LAYERS options.txt titan.toml

The layout of stages is parsed and validated by Megatron-Core, every key of torchtitan's sections is a field of its
configuration classes with a value of that type. (Megatron-LM's argument parser is not on PyPI.)
"""

import sys
import tomllib
from pathlib import Path


def megatron(path, n_layers):
    from megatron.core.transformer.pipeline_parallel_layer_layout import PipelineParallelLayerLayout

    options = dict(line.split(" ", 1) for line in Path(path).read_text().splitlines() if line.count(" ") == 1)
    layout = options["--pipeline-model-parallel-layout"].strip("'")
    parsed = PipelineParallelLayerLayout(layout, int(options["--pipeline-model-parallel-size"]))
    parsed.validate_layer_layout(num_layers=n_layers, mtp_num_layers=0)
    print(f"{path}: {layout} is a layout of {n_layers} layers in {parsed.virtual_pipeline_model_parallel_size} virtual stages a rank")


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
