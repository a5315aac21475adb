"""Reductions over axes, and running sums."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tvm import relax

from tvmopt import ir
from tvmopt.frontend.converters.layout import slice_axis
from tvmopt.frontend.converters.node import Converter, Node, axis_of, rank, scalar, shape
from tvmopt.frontend.converters.padding import pad

Reduction = Callable[[relax.Expr, list[int], bool], relax.Expr]

# ReduceSum takes its axes as an input since opset 13, the others since 18.
_AXES_INPUT = {"ReduceSum": 13}


def _converter(reduction: Reduction, alone: Callable[[relax.Expr], relax.Expr]) -> Converter:
    """Return the converter of an operator.

    Args:
        reduction: From the tensor, the axes and whether to keep them, to the result.
        alone: What the operator does to each element where there is no axis to reduce.
    """

    def convert(node: Node) -> relax.Expr:
        x = node.input(0)
        if node.opset >= _AXES_INPUT.get(node.op_type, 18):
            axes = node.ints_input(1, "axes") if node.has(1) else []
        else:
            axes = node.attribute("axes", [])
        if not axes:
            if node.attribute("noop_with_empty_axes", 0) or rank(x) == 0:
                return alone(x)
            axes = list(range(rank(x)))
        axes = sorted({axis_of(axis, rank(x)) for axis in axes})
        return reduction(x, axes, bool(node.attribute("keepdims", 1)))

    return convert


def _same(x: relax.Expr) -> relax.Expr:
    return x


def _square(x: relax.Expr) -> relax.Expr:
    return relax.op.multiply(x, x)


def _extreme(op: Reduction) -> Reduction:
    """Return a maximum or minimum that takes booleans too, for which TVM knows no least value."""

    def reduce(x: relax.Expr, axes: list[int], keep: bool) -> relax.Expr:
        if ir.dtype(x) != "bool":
            return op(x, axes, keep)
        return relax.op.astype(op(relax.op.astype(x, "uint8"), axes, keep), "bool")

    return reduce


def _l1(x: relax.Expr, axes: list[int], keep: bool) -> relax.Expr:
    return relax.op.sum(relax.op.abs(x), axes, keep)


def _sum_square(x: relax.Expr, axes: list[int], keep: bool) -> relax.Expr:
    return relax.op.sum(_square(x), axes, keep)


def _l2(x: relax.Expr, axes: list[int], keep: bool) -> relax.Expr:
    total = _sum_square(x, axes, keep)
    dtype = ir.dtype(x)
    if dtype.startswith("float"):
        return relax.op.sqrt(total)
    return relax.op.astype(relax.op.sqrt(relax.op.astype(total, "float64")), dtype)


def _log_sum(x: relax.Expr, axes: list[int], keep: bool) -> relax.Expr:
    return relax.op.log(relax.op.sum(x, axes, keep))


def _log_sum_exp(x: relax.Expr, axes: list[int], keep: bool) -> relax.Expr:
    """Return log(sum(exp(x))) about the maximum, which keeps exp from overflowing."""
    # An infinite maximum must not be subtracted from itself.
    limit = {"float16": 6e4, "float32": 3e38}.get(ir.dtype(x), 1e308)
    top = relax.op.minimum(relax.op.max(x, axes, True), scalar(limit, x))
    top = relax.op.maximum(top, scalar(-limit, x))
    total = relax.op.log(relax.op.sum(relax.op.exp(relax.op.subtract(x, top)), axes, keep))
    return relax.op.add(total, top if keep else relax.op.squeeze(top, axes))


def _cumulative_sum(node: Node) -> relax.Expr:
    """Return running sums along an axis, in log2(size) additions of a shifted copy.

    Source: W. D. Hillis and G. L. Steele, "Data parallel algorithms", Communications of the ACM
    29 (1986): each step doubles the span of the sums. Relax's cumsum has no legalization that a
    kernel could be made of.
    """
    x = node.input(0)
    axis = axis_of(int(node.constant(1, "the axis").reshape(-1)[0]), rank(x))
    backwards = bool(node.attribute("reverse", 0))
    size = shape(x)[axis]
    if node.attribute("exclusive", 0):
        x = _shifted(node, x, axis, 1, backwards)
    step = 1
    while step < size:
        x = node.emit(relax.op.add(x, _shifted(node, x, axis, step, backwards)))
        step *= 2
    return x


def _shifted(node: Node, x: relax.Expr, axis: int, by: int, backwards: bool) -> relax.Expr:
    """Return ``x`` moved by ``by`` along ``axis``, to its end or ``backwards``, zeros behind."""
    zeros, some = [0] * rank(x), [0] * rank(x)
    some[axis] = by
    begins, ends = (zeros, some) if backwards else (some, zeros)
    wide = node.emit(pad(node, x, begins, ends, "constant", 0))
    start = by if backwards else 0
    return node.emit(slice_axis(wide, axis, start, start + shape(x)[axis]))


TABLE: Mapping[str, Converter] = {
    "CumSum": _cumulative_sum,
    "ReduceL1": _converter(_l1, relax.op.abs),
    "ReduceL2": _converter(_l2, relax.op.abs),
    "ReduceLogSum": _converter(_log_sum, relax.op.log),
    "ReduceLogSumExp": _converter(_log_sum_exp, _same),
    "ReduceMax": _converter(_extreme(relax.op.max), _same),
    "ReduceMean": _converter(relax.op.mean, _same),
    "ReduceMin": _converter(_extreme(relax.op.min), _same),
    "ReduceProd": _converter(relax.op.prod, _same),
    "ReduceSum": _converter(relax.op.sum, _same),
    "ReduceSumSquare": _converter(_sum_square, _square),
}
