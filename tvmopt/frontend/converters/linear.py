"""Matrix products."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tvm import relax

from tvmopt import ir
from tvmopt.frontend.converters.layout import transpose
from tvmopt.frontend.converters.node import Converter, Node, constant, scalar


def _scaled(x: relax.Expr, factor: float) -> relax.Expr:
    if factor == 1.0:
        return x
    value = ir.constant(x)
    if value is not None:
        return constant(value * np.asarray(factor, value.dtype))
    return relax.op.multiply(x, scalar(factor, x))


def _gemm(node: Node) -> relax.Expr:
    """Return alpha * A @ B + beta * C; constants are transposed and scaled now."""
    a, b = node.input(0), node.input(1)
    a = transpose(a, [1, 0]) if node.attribute("transA", 0) else a
    b = transpose(b, [1, 0]) if node.attribute("transB", 0) else b
    y = relax.op.matmul(a, _scaled(b, node.attribute("alpha", 1.0)))
    if not node.has(2):
        return y
    return relax.op.add(y, _scaled(node.input(2), node.attribute("beta", 1.0)))


def _matmul(node: Node) -> relax.Expr:
    return relax.op.matmul(node.input(0), node.input(1))


TABLE: Mapping[str, Converter] = {"Gemm": _gemm, "MatMul": _matmul}
