"""Quantized operators as dequantize, the operator, quantize: the form that integer kernels match.

A model in ONNX's older QLinear operators becomes the one that quantize / dequantize pairs describe.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from tvm import relax

from tvmopt import forms, ir
from tvmopt.errors import UnsupportedError
from tvmopt.frontend.converters import blocked
from tvmopt.frontend.converters.conv import convolution
from tvmopt.frontend.converters.node import (
    Converter,
    Node,
    axis_of,
    constant,
    rank,
    reshape,
    shape,
)
from tvmopt.frontend.dtypes import dtype_name


def per_tensor(node: Node, index: int) -> relax.Expr:
    """Return a scale or zero point of one element as a scalar; any other as it is."""
    x = node.input(index)
    if math.prod(shape(x)) != 1 or not shape(x):
        return x
    scalar = reshape(x, [])
    return scalar if ir.is_constant(scalar) else node.emit(scalar)


def _axis(node: Node, x: relax.Expr, scale: relax.Expr) -> int:
    if rank(scale) == 0:
        return 0  # one scale for all: any axis will do
    return axis_of(node.attribute("axis", 1), rank(x))


def _quantize(node: Node) -> relax.Expr:
    x, scale = node.input(0), per_tensor(node, 1)
    if node.has(2):
        zero = per_tensor(node, 2)
    else:
        to = node.attribute("output_dtype", 0)
        dtype = dtype_name(to, "the type to quantize to") if to else "uint8"
        zero = constant(np.zeros(shape(scale), dtype))
    if node.attribute("block_size", 0) and rank(scale):
        return blocked.quantize(node, x, scale, zero)
    axis = _axis(node, x, scale)
    return relax.op.quantize(x, scale, zero, axis=axis, out_dtype=ir.dtype(zero))


def _dequantize(node: Node) -> relax.Expr:
    x, scale = node.input(0), per_tensor(node, 1)
    zero = per_tensor(node, 2) if node.has(2) else None
    to = node.attribute("output_dtype", 0)
    out = dtype_name(to, "the type to dequantize to") if to else ir.dtype(scale)
    if node.attribute("block_size", 0) and rank(scale):
        return blocked.dequantize(node, x, scale, zero, out)
    if ir.dtype(x) == "float32":
        raise UnsupportedError("its input must be integers")
    return dequantize(x, scale, zero, _axis(node, x, scale), out)


def dequantize(
    x: relax.Expr, scale: relax.Expr, zero: relax.Expr | None, axis: int, out: str = "float32"
) -> relax.Expr:
    """Return (x - zero) * scale, with one scale and zero point or one for each along ``axis``."""
    if zero is None:
        zero = constant(np.zeros(shape(scale), ir.dtype(x)))
    return relax.op.dequantize(x, scale, zero, axis=axis, out_dtype=out)


def operand(node: Node, first: int, axis: int = 0, scale_at: int | None = None) -> relax.Expr:
    """Return an input of a QLinear operator as floats.

    Args:
        node: The node.
        first: Where the integers are; their scale and zero point, which may be left out, follow.
        axis: The axis of scales that are more than one.
        scale_at: Where the scale is, if not there.
    """
    at = first + 1 if scale_at is None else scale_at
    zero = per_tensor(node, at + 1) if node.has(at + 1) else None
    return node.emit(dequantize(node.input(first), scale_of(node, at), zero, axis))


def scale_of(node: Node, index: int) -> relax.Expr:
    """Return a scale as float32; halves have an image there."""
    scale = per_tensor(node, index)
    value = ir.constant(scale)
    if value is not None:
        return constant(value.astype(np.float32))
    return scale if ir.dtype(scale) == "float32" else node.emit(relax.op.astype(scale, "float32"))


def requantize(node: Node, y: relax.Expr, first: int, dtype: str = "uint8") -> relax.Expr:
    """Return floats as integers by the scale at ``first`` and the zero point behind it.

    Args:
        node: The node.
        y: What it computes.
        first: Where the scale is.
        dtype: Of the result where there is no zero point.
    """
    scale = scale_of(node, first)
    has = node.has(first + 1)
    zero = per_tensor(node, first + 1) if has else constant(np.zeros((), dtype))
    return relax.op.quantize(node.emit(y), scale, zero, axis=0, out_dtype=ir.dtype(zero))


def _qlinear_matmul(node: Node) -> relax.Expr:
    a = operand(node, 0, max(0, rank(node.input(0)) - 2))
    b = operand(node, 3, max(0, rank(node.input(3)) - 1))
    return requantize(node, relax.op.matmul(a, b), 6)


def _qlinear_conv(node: Node) -> relax.Expr:
    if node.attribute("channels_last", 0):
        raise UnsupportedError("channels_last must be 0")
    y = convolution(node, operand(node, 0, 1), operand(node, 3, 0))
    if node.has(8):
        dims = [1, *shape(node.input(8)), *[1] * (rank(node.input(0)) - 2)]
        y = relax.op.add(y, bias(node, reshape(node.input(8), dims), 1, (1, 4)))
    return requantize(node, y, 6)


def bias(
    node: Node, codes: relax.Expr, axis: int, scales: tuple[int, int], factor: float = 1.0
) -> relax.Expr:
    """Return an int32 bias as floats; it counts in units of the product of two scales.

    Args:
        node: The node.
        codes: The bias.
        axis: Its axis of the channels.
        scales: Which inputs the scales are.
        factor: A further factor of the units.
    """
    first, second = (scale_of(node, index) for index in scales)
    values = [ir.constant(scale) for scale in (first, second)]
    if values[0] is not None and values[1] is not None and values[0].ndim == 0:
        unit = values[0] * np.float32(factor) * values[1]
        how = forms.Affine(
            scale=np.asarray(unit, np.float32), zero_point=np.zeros((), np.int32), dtype="int32",
            axis=axis,
        )  # fmt: skip
        return node.emit(forms.dequantize(codes, how))
    unit = node.emit(relax.op.multiply(first, second))
    if rank(unit) == 1:
        unit = reshape(unit, [-1 if i == axis else 1 for i in range(rank(codes))])
    wide = node.emit(relax.op.astype(codes, "float32"))
    return node.emit(relax.op.multiply(wide, node.emit(unit)))


TABLE: Mapping[str, Converter] = {
    "DequantizeLinear": _dequantize,
    "QLinearConv": _qlinear_conv,
    "QLinearMatMul": _qlinear_matmul,
    "QuantizeLinear": _quantize,
}
CONTRIB: Mapping[str, Converter] = TABLE
