"""Products of bare integers, and activations quantized by their own range at run time."""

from __future__ import annotations

from collections.abc import Mapping

from tvm import relax

from tvmopt import forms, ir
from tvmopt.frontend.converters.conv import convolution
from tvmopt.frontend.converters.node import Converter, Node, rank, reshape, shape
from tvmopt.frontend.converters.quantized import per_tensor, scale_of


def _dynamic_quantize(node: Node) -> tuple[relax.Expr, ...]:
    return forms.quantize_tensor(node.input(0), lambda expr, _name: node.emit(expr), node.name)


def _conv_integer(node: Node) -> relax.Expr:
    return convolution(node, _centred(node, 0, 2, 0), _centred(node, 1, 3, 0))


def _matmul_integer(node: Node) -> relax.Expr:
    return _product(node, 0, 1, (2, 3))


def _product(node: Node, a: int, b: int, zeros: tuple[int, int]) -> relax.Expr:
    """Return the int32 product of two inputs less their zero points: of rows, and of columns."""
    left = _centred(node, a, zeros[0], max(0, rank(node.input(a)) - 2))
    return relax.op.matmul(left, _centred(node, b, zeros[1], rank(node.input(b)) - 1))


def _centred(node: Node, index: int, zero_index: int, axis: int) -> relax.Expr:
    """Return an input less its zero point, in int32."""
    zero = per_tensor(node, zero_index) if node.has(zero_index) else None
    return _less(node, node.input(index), zero, axis)


def _less(node: Node, codes: relax.Expr, zero: relax.Expr | None, axis: int) -> relax.Expr:
    known = None if zero is None else ir.constant(zero)
    if known is not None and not known.any():
        zero = None
    if zero is not None and rank(zero) == 1:
        zero = reshape(zero, [*shape(zero), *[1] * (rank(codes) - 1 - axis)])
    return forms.center(codes, zero, lambda expr, _name: node.emit(expr), node.name)


def _scaled(node: Node, acc: relax.Expr, units: relax.Expr, bias: int) -> relax.Expr:
    """Return accumulators as floats in the given units, and the bias added if there is one."""
    y = relax.op.multiply(node.emit(relax.op.astype(node.emit(acc), "float32")), units)
    return relax.op.add(node.emit(y), node.input(bias)) if node.has(bias) else y


def _matmul_integer_to_float(node: Node) -> relax.Expr:
    """Convert A, B, their scales, their zero points, and a bias."""
    acc = _product(node, 0, 1, (4, 5))
    return _scaled(node, acc, node.emit(relax.op.multiply(scale_of(node, 2), scale_of(node, 3))), 6)


def _dynamic_quantize_matmul(node: Node) -> relax.Expr:
    """Convert A in float, B, its scale and zero point, and a bias."""
    codes, scale, zero = _dynamic_quantize(node)
    left = _less(node, codes, zero, 0)
    right = _centred(node, 1, 3, rank(node.input(1)) - 1)
    units = node.emit(relax.op.multiply(scale, scale_of(node, 2)))
    return _scaled(node, relax.op.matmul(left, right), units, 4)


TABLE: Mapping[str, Converter] = {
    "ConvInteger": _conv_integer,
    "DynamicQuantizeLinear": _dynamic_quantize,
    "MatMulInteger": _matmul_integer,
}
CONTRIB: Mapping[str, Converter] = {
    "DynamicQuantizeMatMul": _dynamic_quantize_matmul,
    "MatMulIntegerToFloat": _matmul_integer_to_float,
}
