"""Single layers as ONNX files: linear ones in float32, convolutions with quantized operands.

Their weights are seeded random numbers: for speed only. A convolution has 4-bit weights and 8-bit
activations, and its input and output are integers, so that what is timed is the layer; a rival
runs the same file, and no sum of it saturates in any engine. The file has its channels last, with
transposes around the convolution, which tvmopt and ONNX Runtime drop: both compute so, and both are
faster than OpenVINO at either order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from benchmarks.speed.compressed import sparse_layers
from benchmarks.speed.compressed.onnx_layer import constant_model, write

_CONV = re.compile(r"conv(\d)x\d(?:s(\d))?_(\d+)x(\d+)_w(\d)")
_LINEAR = re.compile(r"linear_(\d+)")


def is_layer(name: str) -> bool:
    """Whether ``name`` is of a synthetic layer."""
    return bool(_CONV.fullmatch(name) or _LINEAR.fullmatch(name) or sparse_layers.parse(name))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Conv:
    kernel: int
    stride: int
    c: int
    o: int
    size: int
    bits: int


def layer_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Return the shape of the layer's input by name."""
    if sparse := sparse_layers.parse(name):
        return {"x": sparse.shape}
    if conv := _parse(name):
        return {"x": (1, conv.size, conv.size, conv.c)}
    match = _LINEAR.fullmatch(name)
    assert match is not None, f"{name} is no layer"
    return {"x": (1, int(match[1]))}


def make_layer(name: str) -> Path:
    """Return the ONNX file of a layer, after writing it.

    ``conv3x3_64x56_w4`` maps 64 channels of 56 x 56 pixels to as many with 4-bit weights,
    ``conv1x1s2_64x56_w4`` to twice as many of half the size; ``linear_1024`` multiplies one row by
    a matrix of 1024 x 1024. Those of ``sparse_layers.py`` have other names.
    """
    if sparse := sparse_layers.parse(name):
        return sparse_layers.make(sparse)
    conv = _parse(name)
    if conv is None:
        return write(name, _linear(layer_shapes(name)["x"][1]))
    return write(name, _conv(conv))


def _parse(name: str) -> _Conv | None:
    match = _CONV.fullmatch(name)
    if match is None:
        return None
    kernel, stride, c, size, bits = (int(text or 1) for text in match.groups())
    return _Conv(kernel=kernel, stride=stride, c=c, o=c * stride, size=size, bits=bits)


def _linear(n: int) -> onnx.ModelProto:
    rng = np.random.default_rng(n)
    weight = (rng.normal(size=(n, n)) / np.sqrt(n)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="linear")]
    value = helper.make_tensor_value_info
    ends = [value(end, TensorProto.FLOAT, (1, n)) for end in "xy"]
    return constant_model(nodes, ends, {"w": weight})


def _conv(conv: _Conv) -> onnx.ModelProto:
    node = helper.make_node
    pads, strides = [conv.kernel // 2] * 4, [conv.stride] * 2
    nodes = [
        node("Transpose", ["x"], ["xt"], perm=[0, 3, 1, 2]),
        node("DequantizeLinear", ["xt", "x_scale", "x_zero"], ["xf"]),
        node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["wf"], axis=0),
        node("DequantizeLinear", ["b", "b_scale", "b_zero"], ["bf"], axis=0),
        node("Conv", ["xf", "wf", "bf"], ["cf"], name="conv", pads=pads, strides=strides),
        node("Relu", ["cf"], ["rf"], name="relu"),
        node("QuantizeLinear", ["rf", "y_scale", "y_zero"], ["yt"]),
        node("Transpose", ["yt"], ["y"], perm=[0, 2, 3, 1]),
    ]
    half = conv.size // conv.stride
    shapes = [(1, conv.size, conv.size, conv.c), (1, half, half, conv.o)]
    value = helper.make_tensor_value_info
    ends = [value(k, TensorProto.UINT8, s) for k, s in zip("xy", shapes, strict=True)]
    return constant_model(nodes, ends, _conv_constants(conv))


def _conv_constants(conv: _Conv) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(conv.c)
    reach = 2 ** (conv.bits - 1)
    shape = (conv.o, conv.c, conv.kernel, conv.kernel)
    # Uniform bytes and weights have deviations of 74 and reach / sqrt(3). One deviation of a sum is
    # to be 32 steps of the output.
    deviation = np.sqrt(conv.c * conv.kernel**2) * 74.0 * reach / np.sqrt(3)
    x_scale, w_scale = 1 / 64, 1 / 8
    constants = {
        "w": rng.integers(1 - reach, reach, shape).astype(np.int8),
        "w_scale": np.full(conv.o, w_scale, np.float32),
        "w_zero": np.zeros(conv.o, np.int8),
        "b": rng.integers(-1000, 1000, conv.o).astype(np.int32),
        "b_scale": np.full(conv.o, x_scale * w_scale, np.float32),
        "b_zero": np.zeros(conv.o, np.int32),
        "x_scale": np.float32(x_scale),
        "x_zero": np.uint8(128),
        "y_scale": np.float32(x_scale * w_scale * deviation / 32),
        "y_zero": np.uint8(0),
    }
    return {name: np.asarray(array) for name, array in constants.items()}
