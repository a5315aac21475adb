"""ONNX Runtime's quantized operators (domain com.microsoft): floats between integers.

Each is dequantize, the operator, quantize; what runs on the integers is lowering's business.

Source: ONNX Runtime, "Contrib operators" (docs/ContribOperators.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from tvm import relax

from tvmopt import ir
from tvmopt.errors import UnsupportedError
from tvmopt.frontend.converters import elementwise, layout, pool
from tvmopt.frontend.converters.layout import transpose
from tvmopt.frontend.converters.node import Converter, Node, rank, scalar
from tvmopt.frontend.converters.quantized import bias, operand, requantize


def _binary(op: Callable[[relax.Expr, relax.Expr], relax.Expr]) -> Converter:
    """Return the converter of A, B and C, each with a scale and a zero point."""

    def convert(node: Node) -> relax.Expr:
        return requantize(node, op(operand(node, 0), operand(node, 3)), 6, _dtype(node, 0))

    return convert


def _unary(convert_float: Converter) -> Converter:
    """Return the converter of X and Y, each with a scale and a zero point."""

    def convert(node: Node) -> relax.Expr:
        if node.attribute("channels_last", 0):
            raise UnsupportedError("channels_last must be 0")
        y = convert_float(replace(node, inputs=(operand(node, 0),)))
        assert isinstance(y, relax.Expr), "these operators have one result"
        return requantize(node, y, 3, _dtype(node, 0))

    return convert


def _dtype(node: Node, index: int) -> str:
    return ir.dtype(node.input(index))


def _sigmoid(node: Node) -> relax.Expr:
    return relax.op.sigmoid(node.input(0))


def _softmax(node: Node) -> relax.Expr:
    if node.attribute("opset", 13) < 13:
        raise UnsupportedError(f"opset must be 13 or later, got {node.attribute('opset', 13)}")
    return relax.op.nn.softmax(node.input(0), node.attribute("axis", -1))


def _reduce_mean(node: Node) -> relax.Expr:
    axes = node.attribute("axes", None)
    return relax.op.mean(node.input(0), axes, keepdims=bool(node.attribute("keepdims", 1)))


def _concat(node: Node) -> relax.Expr:
    """Convert Y's scale and zero point, and then X, its scale and zero point for each part."""
    parts = tuple(operand(node, first) for first in range(2, len(node.inputs), 3))
    y = layout.TABLE["Concat"](replace(node, inputs=parts))
    assert isinstance(y, relax.Expr), "concat has one result"
    return requantize(node, y, 0, _dtype(node, 2))


def _where(node: Node) -> relax.Expr:
    """Convert the condition, X, Y, each with a scale and a zero point, and those of Z."""
    y = relax.op.where(node.input(0), operand(node, 1), operand(node, 4))
    return requantize(node, y, 7, _dtype(node, 1))


def _gemm(node: Node) -> relax.Expr:
    """Convert A and B with their scales and zero points, C in int32, and Y's, if there are."""
    a = operand(node, 0)
    by_rows = bool(node.attribute("transB", 0))
    b = operand(node, 3, 0 if by_rows else 1)
    a = node.emit(transpose(a, [1, 0])) if node.attribute("transA", 0) else a
    y = relax.op.matmul(a, node.emit(transpose(b, [1, 0])) if by_rows else b)
    alpha = float(node.attribute("alpha", 1.0))
    if alpha != 1.0:
        y = relax.op.multiply(node.emit(y), scalar(alpha, a))
    if node.has(6):
        c = node.input(6)
        y = relax.op.add(node.emit(y), bias(node, c, rank(c) - 1, (1, 4), alpha))
    return requantize(node, y, 7, _dtype(node, 0)) if node.has(7) else y


CONTRIB: Mapping[str, Converter] = {
    "QGemm": _gemm,
    "QLinearAdd": _binary(relax.op.add),
    "QLinearAveragePool": _unary(pool.TABLE["AveragePool"]),
    "QLinearConcat": _concat,
    "QLinearGlobalAveragePool": _unary(pool.TABLE["GlobalAveragePool"]),
    "QLinearLeakyRelu": _unary(elementwise.TABLE["LeakyRelu"]),
    "QLinearMul": _binary(relax.op.multiply),
    "QLinearReduceMean": _unary(_reduce_mean),
    "QLinearSigmoid": _unary(_sigmoid),
    "QLinearSoftmax": _unary(_softmax),
    "QLinearWhere": _where,
}
