"""Single layers as ONNX files: linear ones in float32, convolutions with quantized operands.

Their weights are seeded random numbers: for speed only. A convolution has 4-bit weights and 8-bit
activations, and its input and output are integers, so that what is timed is the layer; a rival
runs the same file, and no sum of it saturates in any engine.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.zoo.cache import CACHE

FOLDER = CACHE / "layers"
OPSET = 17
_CONV = re.compile(r"conv(\d)x\d_(\d+)x(\d+)_w(\d)")
_LINEAR = re.compile(r"linear_(\d+)")


def is_layer(name: str) -> bool:
    """Whether ``name`` is of a synthetic layer."""
    return bool(_CONV.fullmatch(name) or _LINEAR.fullmatch(name))


def layer_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Return the shape of the layer's input by name."""
    if match := _CONV.fullmatch(name):
        _, c, size, _ = map(int, match.groups())
        return {"x": (1, c, size, size)}
    (n,) = map(int, _fit(_LINEAR, name).groups())
    return {"x": (1, n)}


def make_layer(name: str) -> Path:
    """Return the ONNX file of a layer, after writing it if need be.

    ``conv3x3_64x56_w4`` maps 64 channels of 56 x 56 pixels to as many with 4-bit weights;
    ``linear_1024`` multiplies one row by a matrix of 1024 x 1024.
    """
    match = _CONV.fullmatch(name)
    model = _conv(*map(int, match.groups())) if match else _linear(*layer_shapes(name)["x"][1:])
    out = FOLDER / f"{name}.onnx"
    FOLDER.mkdir(parents=True, exist_ok=True)
    out.write_bytes(model.SerializeToString(deterministic=True))
    return out


def _fit(pattern: re.Pattern[str], name: str) -> re.Match[str]:
    match = pattern.fullmatch(name)
    assert match is not None, f"{name} is no layer"
    return match


def _linear(n: int) -> onnx.ModelProto:
    rng = np.random.default_rng(n)
    weight = (rng.normal(size=(n, n)) / np.sqrt(n)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="linear")]
    value = helper.make_tensor_value_info
    return _model(
        nodes,
        value("x", TensorProto.FLOAT, (1, n)),
        value("y", TensorProto.FLOAT, (1, n)),
        {"w": weight},
    )


def _conv(kernel: int, c: int, size: int, bits: int) -> onnx.ModelProto:
    rng = np.random.default_rng(c)
    reach = 2 ** (bits - 1)
    weight = rng.integers(1 - reach, reach, (c, c, kernel, kernel)).astype(np.int8)
    # Outputs of about 32 steps of standard deviation around the zero point.
    spread = np.sqrt(c * kernel**2) * 74.0 * reach / np.sqrt(3)
    x_scale, w_scale, y_scale = 1 / 64, 1 / 8, spread / 64 / 8 / 32
    constants = {
        "w": weight,
        "w_scale": np.full(c, w_scale, np.float32),
        "w_zero": np.zeros(c, np.int8),
        "b": rng.integers(-1000, 1000, c).astype(np.int32),
        "b_scale": np.full(c, x_scale * w_scale, np.float32),
        "b_zero": np.zeros(c, np.int32),
        "x_scale": np.float32(x_scale),
        "x_zero": np.uint8(128),
        "y_scale": np.float32(y_scale),
        "y_zero": np.uint8(0),
    }
    node = helper.make_node
    nodes = [
        node("DequantizeLinear", ["x", "x_scale", "x_zero"], ["xf"]),
        node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["wf"], axis=0),
        node("DequantizeLinear", ["b", "b_scale", "b_zero"], ["bf"], axis=0),
        node("Conv", ["xf", "wf", "bf"], ["cf"], name="conv", pads=[kernel // 2] * 4),
        node("Relu", ["cf"], ["rf"], name="relu"),
        node("QuantizeLinear", ["rf", "y_scale", "y_zero"], ["y"]),
    ]
    shape = (1, c, size, size)
    value = helper.make_tensor_value_info
    arrays = {name: np.asarray(array) for name, array in constants.items()}
    return _model(
        nodes, value("x", TensorProto.UINT8, shape), value("y", TensorProto.UINT8, shape), arrays
    )


def _model(
    nodes: list[onnx.NodeProto],
    x: onnx.ValueInfoProto,
    y: onnx.ValueInfoProto,
    constants: dict[str, np.ndarray],
) -> onnx.ModelProto:
    from_array: Callable[..., onnx.TensorProto] = numpy_helper.from_array
    initializers = [from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "layer", [x], [y], initializers)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model)
    return model
