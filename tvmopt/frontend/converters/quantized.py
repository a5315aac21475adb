"""Operators on quantized tensors: as dequantize, the operator, quantize.

The integer kernels match that form, so a model in ONNX's older QLinear operators becomes the one
that quantize / dequantize pairs describe.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from tvm import relax

from tvmopt import ir
from tvmopt.errors import UnsupportedError
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


def _per_tensor(x: relax.Expr) -> relax.Expr:
    """Return a scale or zero point of one element as a scalar."""
    return reshape(x, []) if math.prod(shape(x)) == 1 else x


def _axis(node: Node, x: relax.Expr, scale: relax.Expr) -> int:
    if node.attribute("block_size", 0):
        raise UnsupportedError("block_size must be 0")
    axis = node.attribute("axis", 1)
    if rank(scale) == 0:
        return 0  # one scale for all: any axis will do
    return axis_of(axis, rank(x))


def _quantize(node: Node) -> relax.Expr:
    x, scale = node.input(0), _per_tensor(node.input(1))
    if node.has(2):
        zero = _per_tensor(node.input(2))
    else:
        to = node.attribute("output_dtype", 0)
        dtype = dtype_name(to, "the type to quantize to") if to else "uint8"
        zero = constant(np.zeros(shape(scale), dtype))
    axis = _axis(node, x, scale)
    return relax.op.quantize(x, scale, zero, axis=axis, out_dtype=ir.dtype(zero))


def _dequantize(node: Node) -> relax.Expr:
    x, scale = node.input(0), _per_tensor(node.input(1))
    zero = _per_tensor(node.input(2)) if node.has(2) else None
    return dequantize(x, scale, zero, _axis(node, x, scale))


def dequantize(x: relax.Expr, scale: relax.Expr, zero: relax.Expr | None, axis: int) -> relax.Expr:
    """Return (x - zero) * scale, with one scale and zero point or one for each along ``axis``."""
    if zero is None:
        zero = constant(np.zeros(shape(scale), ir.dtype(x)))
    return relax.op.dequantize(x, scale, zero, axis=axis, out_dtype=ir.dtype(scale))


def _qlinear_matmul(node: Node) -> relax.Expr:
    a = _operand(node, 0, last_but=2)
    b = _operand(node, 3, last_but=1)
    return _requantize(node, relax.op.matmul(a, b), 6)


def _operand(node: Node, first: int, last_but: int) -> relax.Expr:
    """Return the dequantized tensor at ``first``, its scale and zero point behind it."""
    x = node.input(first)
    scale, zero = _per_tensor(node.input(first + 1)), _per_tensor(node.input(first + 2))
    return node.emit(dequantize(x, scale, zero, max(0, rank(x) - last_but)))


def _requantize(node: Node, y: relax.Expr, first: int) -> relax.Expr:
    scale, zero = _per_tensor(node.input(first)), _per_tensor(node.input(first + 1))
    return relax.op.quantize(node.emit(y), scale, zero, axis=0, out_dtype=ir.dtype(zero))


def _qlinear_conv(node: Node) -> relax.Expr:
    x = node.emit(dequantize(node.input(0), *_scale(node, 1), 1))
    weight = node.emit(dequantize(node.input(3), *_scale(node, 4), 0))
    y = convolution(node, x, weight)
    if node.has(8):
        # The bias counts in units of x_scale * w_scale, and has no zero point.
        unit = relax.op.multiply(_scale(node, 1)[0], _scale(node, 4)[0])
        bias = relax.op.multiply(relax.op.astype(node.input(8), "float32"), unit)
        bias = reshape(node.emit(bias), [1, *shape(node.input(8)), *[1] * (rank(x) - 2)])
        y = relax.op.add(y, bias)
    return _requantize(node, y, 6)


def _scale(node: Node, first: int) -> tuple[relax.Expr, relax.Expr]:
    return _per_tensor(node.input(first)), _per_tensor(node.input(first + 1))


def _conv_integer(node: Node) -> relax.Expr:
    x, weight = _centred(node, 0, 2, 0), _centred(node, 1, 3, 0)
    return convolution(node, x, weight)


def _matmul_integer(node: Node) -> relax.Expr:
    a = _centred(node, 0, 2, max(0, rank(node.input(0)) - 2))
    b = _centred(node, 1, 3, rank(node.input(1)) - 1)
    return relax.op.matmul(a, b)


def _centred(node: Node, index: int, zero_index: int, axis: int) -> relax.Expr:
    """Return an input less its zero point, in int32."""
    x = node.emit(relax.op.astype(node.input(index), "int32"))
    if not node.has(zero_index):
        return x
    zero = _per_tensor(node.input(zero_index))
    known = ir.constant(zero)
    if known is not None and not known.any():
        return x
    if rank(zero) == 1:
        zero = reshape(zero, [*shape(zero), *[1] * (rank(x) - 1 - axis)])
    return node.emit(relax.op.subtract(x, relax.op.astype(zero, "int32")))


TABLE: Mapping[str, Converter] = {
    "ConvInteger": _conv_integer,
    "DequantizeLinear": _dequantize,
    "MatMulInteger": _matmul_integer,
    "QLinearConv": _qlinear_conv,
    "QLinearMatMul": _qlinear_matmul,
    "QuantizeLinear": _quantize,
}
