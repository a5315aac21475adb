"""Single layers with block-sparse weights as ONNX files, and their float32 twins for the rivals.

Weights are seeded normal numbers, and the blocks of least magnitude are zero: for speed only. A
layer of integers has 7-bit weights and integers at both ends; every engine runs the same file, in
which no sum saturates. Rivals also run its twin: the same layer in float32, channels first for
convolutions as they like it. Of a layer of floats the twin is all that they run, and ours has its
channels last: neither pays for an order that a network would not have.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from benchmarks.speed.compressed.onnx_layer import Arrays, constant_model, write

LARGEST = 64  # of a 7-bit weight
SPREAD = 0.3  # deviation of the weights, of the largest
ZERO = 128
X_SCALE, W_SCALE = 1 / 64, 1 / 64
_NAME = re.compile(
    r"(?:conv(\d)x\d(?:s(\d))?|(rows))_(\d+)(?:to(\d+))?x(\d+)_(w7|f32)_(\d+)x(\d+)_(\d+)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SparseLayer:
    """What a name says.

    Attributes:
        name: Such as ``"conv3x3_64x56_w7_16x4_80"``: 64 channels of 56 x 56 pixels to as many, with
            7-bit weights, of which 80 % of the blocks of 16 outputs by 4 inputs are zero; or
            ``"rows_384to1536x128_f32_16x1_80"``: 128 rows of 384 by a matrix, in float32.
        kernel: Taps along each axis; 0 for a matrix product.
        stride: Steps along each axis.
        c: Input channels.
        o: Output channels.
        size: Pixels along each axis, or rows.
        integer: Whether weights have 7 bits.
        block: Outputs by inputs.
        percent: Blocks that are zero.
    """

    name: str
    kernel: int
    stride: int
    c: int
    o: int
    size: int
    integer: bool
    block: tuple[int, int]
    percent: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the input, channels last."""
        return (1, self.size, self.size, self.c) if self.kernel else (self.size, self.c)

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of the output, channels last."""
        half = -(-self.size // self.stride)
        return (1, half, half, self.o) if self.kernel else (self.size, self.o)


def parse(name: str) -> SparseLayer | None:
    """Return the layer of that name; None if it is none of these."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    kernel, stride, rows, c, o, size, kind, outputs, inputs, percent = match.groups()
    return SparseLayer(
        name=name,
        kernel=0 if rows else int(kernel),
        stride=int(stride or 1),
        c=int(c),
        o=int(o or c),
        size=int(size),
        integer=kind == "w7",
        block=(int(outputs), int(inputs)),
        percent=int(percent),
    )


@cache
def weights(layer: SparseLayer) -> np.ndarray:
    """Return the weights, (o, kh * kw * c) with c innermost: int8, or float32."""
    rng = np.random.default_rng(layer.c)
    k = max(1, layer.kernel) ** 2 * layer.c
    drawn = rng.standard_normal((layer.o, k))
    outputs, inputs = layer.block
    blocks = drawn.reshape(layer.o // outputs, outputs, k // inputs, inputs)
    sizes = np.square(blocks).sum((1, 3))
    kept = sizes > np.quantile(sizes, layer.percent / 100)
    drawn = (blocks * kept[:, None, :, None]).reshape(layer.o, k)
    if not layer.integer:
        return (drawn / np.sqrt(k)).astype(np.float32)
    return np.clip(np.rint(drawn * SPREAD * LARGEST), -LARGEST, LARGEST).astype(np.int8)


def inputs(layer: SparseLayer) -> Arrays:
    """Return what our artefact, and rivals that run the same file, are fed."""
    rng = np.random.default_rng(0)
    if layer.integer:
        return {"x": rng.integers(0, 256, layer.shape).astype(np.uint8)}
    return {"x": rng.standard_normal(layer.shape).astype(np.float32)}


def twin_inputs(layer: SparseLayer) -> Arrays:
    """Return the same for the twin."""
    x = inputs(layer)["x"]
    real = (x.astype(np.float32) - ZERO) * np.float32(X_SCALE) if layer.integer else x
    return {"x": np.ascontiguousarray(real.transpose(0, 3, 1, 2)) if layer.kernel else real}


def make(layer: SparseLayer) -> Path:
    """Write the file that our artefact is made of, and return it."""
    nodes = _quantized_nodes(layer) if layer.integer else _float_nodes(layer, last=True)
    constants = _quantized_constants(layer) if layer.integer else {"w": _as_float(layer)}
    kind = TensorProto.UINT8 if layer.integer else TensorProto.FLOAT
    value = helper.make_tensor_value_info
    ends = [value("x", kind, layer.shape), value("y", kind, layer.out_shape)]
    return write(layer.name, constant_model(nodes, ends, constants))


def make_twin(layer: SparseLayer) -> Path:
    """Write the float32 file for rivals, and return it."""
    value, kind = helper.make_tensor_value_info, TensorProto.FLOAT
    ends = [
        value(end, kind, (shape[0], shape[3], *shape[1:3]) if layer.kernel else shape)
        for end, shape in (("x", layer.shape), ("y", layer.out_shape))
    ]
    nodes = _float_nodes(layer, last=False)
    return write(f"{layer.name}_twin", constant_model(nodes, ends, {"w": _as_float(layer)}))


def _as_onnx(layer: SparseLayer) -> np.ndarray:
    """Return the weights as the operator wants them: (o, c, kh, kw), or (c, o)."""
    whole = weights(layer)
    if not layer.kernel:
        return np.ascontiguousarray(whole.T)
    shape = layer.o, layer.kernel, layer.kernel, layer.c
    return np.ascontiguousarray(whole.reshape(shape).transpose(0, 3, 1, 2))


def _as_float(layer: SparseLayer) -> np.ndarray:
    whole = _as_onnx(layer).astype(np.float32)
    return whole * np.float32(W_SCALE) if layer.integer else whole


def _float_nodes(layer: SparseLayer, *, last: bool) -> list[onnx.NodeProto]:
    """Return the nodes from x to y; ``last``: both have their channels last."""
    if not layer.kernel:
        return [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")]
    if last:
        return _between_transposes(_conv(layer, "xt", "w", "ct"), "ct")
    return [*_conv(layer, "x", "w", "c"), helper.make_node("Relu", ["c"], ["y"], name="relu")]


def _between_transposes(nodes: list[onnx.NodeProto], out: str) -> list[onnx.NodeProto]:
    node = helper.make_node
    return [
        node("Transpose", ["x"], ["xt"], perm=[0, 3, 1, 2]),
        *nodes,
        node("Relu", [out], ["rt"], name="relu"),
        node("Transpose", ["rt"], ["y"], perm=[0, 2, 3, 1]),
    ]


def _conv(layer: SparseLayer, x: str, w: str, y: str) -> list[onnx.NodeProto]:
    pads, strides = [layer.kernel // 2] * 4, [layer.stride] * 2
    return [helper.make_node("Conv", [x, w], [y], name="conv", pads=pads, strides=strides)]


def _quantized_nodes(layer: SparseLayer) -> list[onnx.NodeProto]:
    node = helper.make_node
    read = [
        node("DequantizeLinear", ["xt", "x_scale", "x_zero"], ["xf"]),
        node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["wf"], axis=0 if layer.kernel else 1),
    ]
    if not layer.kernel:
        read[0].input[0] = "x"
        product = node("MatMul", ["xf", "wf"], ["cf"], name="product")
        return [*read, product, node("QuantizeLinear", ["cf", "y_scale", "y_zero"], ["y"])]
    return [
        node("Transpose", ["x"], ["xt"], perm=[0, 3, 1, 2]),
        *read,
        *_conv(layer, "xf", "wf", "cf"),
        node("Relu", ["cf"], ["rf"], name="relu"),
        node("QuantizeLinear", ["rf", "y_scale", "y_zero"], ["yt"]),
        node("Transpose", ["yt"], ["y"], perm=[0, 2, 3, 1]),
    ]


def _quantized_constants(layer: SparseLayer) -> Arrays:
    w = _as_onnx(layer)
    # Uniform bytes have a deviation of 74; one deviation of a sum is to be 32 steps of the output.
    deviation = 74 * np.sqrt(np.square(weights(layer).astype(np.float64)).sum(1).mean())
    constants = {
        "w": w,
        "w_scale": np.full(layer.o, W_SCALE, np.float32),
        "w_zero": np.zeros(layer.o, np.int8),
        "x_scale": np.float32(X_SCALE),
        "x_zero": np.uint8(ZERO),
        "y_scale": np.float32(X_SCALE * W_SCALE * deviation / 32),
        "y_zero": np.uint8(0 if layer.kernel else ZERO),
    }
    return {name: np.asarray(array) for name, array in constants.items()}
