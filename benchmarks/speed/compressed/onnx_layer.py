"""An ONNX file of one layer: constants, one input, one output."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from benchmarks.zoo.cache import CACHE

FOLDER = CACHE / "layers"
OPSET = 17

Arrays = dict[str, np.ndarray]


def write(name: str, model: onnx.ModelProto) -> Path:
    """Write ``name.onnx`` into the cache and return it."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    out = FOLDER / f"{name}.onnx"
    out.write_bytes(model.SerializeToString(deterministic=True))
    return out


def constant_model(
    nodes: list[onnx.NodeProto], ends: list[onnx.ValueInfoProto], constants: Arrays
) -> onnx.ModelProto:
    """Return the checked model; ``ends``: its input and its output."""
    x, y = ends
    from_array: Callable[..., onnx.TensorProto] = numpy_helper.from_array
    initializers = [from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "layer", [x], [y], initializers)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model)
    return model
