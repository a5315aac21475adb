"""Operators that compute each element by itself."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np
from tvm import relax, tirx

from tvmopt import ir
from tvmopt.frontend.converters.node import Converter, Node, constant, rank, reshape, scalar, shape
from tvmopt.frontend.dtypes import dtype_name

Binary = Callable[[relax.Expr, relax.Expr], relax.Expr]


def _bounds(node: Node) -> tuple[relax.Expr | None, relax.Expr | None]:
    if node.opset >= 11:
        return (node.input(1) if node.has(1) else None), (node.input(2) if node.has(2) else None)
    x = node.input(0)
    low, high = node.attribute("min", None), node.attribute("max", None)
    return (None if low is None else scalar(low, x)), (None if high is None else scalar(high, x))


def _clip(node: Node) -> relax.Expr:
    x = node.input(0)
    low, high = _bounds(node)
    known_low = None if low is None else ir.constant(low)
    known_high = None if high is None else ir.constant(high)
    if known_low is not None and known_high is not None:
        high_value = known_high.item()  # wins over a greater lower bound
        return clip(x, min(known_low.item(), high_value), high_value, ir.dtype(x))
    if known_low is not None and known_low.item() == 0 and high is None and _is_float(x):
        return relax.op.nn.relu(x)
    if low is not None:
        x = node.emit(relax.op.maximum(x, low))
    return x if high is None else relax.op.minimum(x, high)


def clip(x: relax.Expr, low: float, high: float, dtype: str) -> relax.Expr:
    """Return ``x``, of element type ``dtype``, limited to [low, high]."""
    return relax.op.clip(x, tirx.const(low, dtype), tirx.const(high, dtype))


def _is_half(x: relax.Expr) -> bool:
    return ir.dtype(x) == "float16"


def _is_float(x: relax.Expr) -> bool:
    return ir.dtype(x).startswith("float")


def _fold_left(op: Binary) -> Converter:
    """Return the converter of an operator that combines any number of inputs with ``op``."""

    def convert(node: Node) -> relax.Expr:
        parts = [node.input(i) for i in range(len(node.inputs))]
        return functools.reduce(lambda a, b: node.emit(op(a, b)), parts)

    return convert


def _mean(node: Node) -> relax.Expr:
    total = _fold_left(relax.op.add)(node)
    return relax.op.multiply(total, scalar(1 / len(node.inputs), total))


def _leaky_relu(node: Node) -> relax.Expr:
    return relax.op.nn.leakyrelu(node.input(0), node.attribute("alpha", 0.01))


def _prelu(node: Node) -> relax.Expr:
    """PReLU with a slope a channel is nn.prelu; any other slope is spelled out."""
    x, slope = node.input(0), node.input(1)
    dims = shape(slope)
    wide = [i for i, d in enumerate(dims) if d != 1]
    if len(wide) > 1:
        negative = relax.op.less(x, scalar(0, x))
        return relax.op.where(negative, relax.op.multiply(x, slope), x)
    if not wide:
        known = ir.constant(slope)
        if known is not None:
            return relax.op.nn.leakyrelu(x, float(known.reshape(())))
        axis = rank(x) - 1
    else:
        axis = rank(x) - len(dims) + wide[0]
    return relax.op.nn.prelu(x, reshape(slope, [dims[wide[0]] if wide else 1]), axis)


def _hard_sigmoid(node: Node) -> relax.Expr:
    x = node.input(0)
    scaled = relax.op.multiply(x, scalar(node.attribute("alpha", 0.2), x))
    return clip(relax.op.add(scaled, scalar(node.attribute("beta", 0.5), x)), 0, 1, ir.dtype(x))


def _hard_swish(node: Node) -> relax.Expr:
    x = node.input(0)
    shifted = relax.op.add(relax.op.multiply(x, scalar(1 / 6, x)), scalar(0.5, x))
    return relax.op.multiply(x, clip(shifted, 0, 1, ir.dtype(x)))


def _exponential(x: relax.Expr, alpha: float, gamma: float, inner: float = 1.0) -> relax.Expr:
    """Return gamma * (x if x > 0 else alpha * (exp(x / inner) - 1)), without a branch."""
    power = x if inner == 1.0 else relax.op.multiply(x, scalar(1 / inner, x))
    below = relax.op.nn.relu(relax.op.subtract(scalar(1, x), relax.op.exp(power)))
    above = relax.op.nn.relu(x)
    scaled = relax.op.multiply(below, scalar(-alpha * gamma, x))
    return relax.op.add(
        scaled, above if gamma == 1.0 else relax.op.multiply(above, scalar(gamma, x))
    )


def _elu(node: Node) -> relax.Expr:
    return _exponential(node.input(0), node.attribute("alpha", 1.0), 1.0)


def _celu(node: Node) -> relax.Expr:
    alpha = node.attribute("alpha", 1.0)
    return _exponential(node.input(0), alpha, 1.0, inner=alpha)


def _selu(node: Node) -> relax.Expr:
    alpha = node.attribute("alpha", 1.67326319217681884765625)
    return _exponential(node.input(0), alpha, node.attribute("gamma", 1.05070102214813232421875))


def _mish(node: Node) -> relax.Expr:
    """Return x * tanh(log(1 + exp(x))), as x * n / (n + 2) with n = e * (e + 2), e = exp(x).

    The logarithm would lose the digits of a small exp(x). Above 20 the factor rounds to 1.
    """
    x = node.input(0)
    e = node.emit(relax.op.exp(relax.op.minimum(x, scalar(8 if _is_half(x) else 20, x))))
    n = node.emit(relax.op.multiply(e, relax.op.add(e, scalar(2, x))))
    # Divided first: x * n would overflow half precision.
    return relax.op.multiply(x, relax.op.divide(n, relax.op.add(n, scalar(2, x))))


def _thresholded_relu(node: Node) -> relax.Expr:
    x = node.input(0)
    above = relax.op.greater(x, scalar(node.attribute("alpha", 1.0), x))
    return relax.op.where(above, x, scalar(0, x))


def _swish(node: Node) -> relax.Expr:
    x, alpha = node.input(0), node.attribute("alpha", 1.0)
    if alpha == 1.0:
        return relax.op.nn.silu(x)
    return relax.op.multiply(x, relax.op.sigmoid(relax.op.multiply(x, scalar(alpha, x))))


def _is_inf(node: Node) -> relax.Expr:
    x = node.input(0)
    signs = [("detect_positive", np.inf), ("detect_negative", -np.inf)]
    found = [
        relax.op.equal(x, scalar(value, x)) for name, value in signs if node.attribute(name, 1)
    ]
    if not found:
        return constant(np.zeros(shape(x), bool))
    return functools.reduce(relax.op.logical_or, found)


def _bit_shift(node: Node) -> relax.Expr:
    """Shift; by the word's width or more, which LLVM leaves undefined, nothing of x remains."""
    x, by = node.input(0), node.input(1)
    bits = np.iinfo(ir.dtype(x)).bits
    last = relax.const(bits - 1, ir.dtype(by))
    within = relax.op.less_equal(by, last)
    if np.iinfo(ir.dtype(by)).min < 0:
        within = relax.op.logical_and(within, relax.op.greater_equal(by, scalar(0, by)))
    safe = relax.op.where(within, by, last)
    if node.attribute("direction", "") == "LEFT":
        return relax.op.where(within, relax.op.left_shift(x, safe), scalar(0, x))
    shifted = relax.op.right_shift(x, safe)
    # A negative number shifted out to the right leaves its sign.
    return (
        shifted if np.iinfo(ir.dtype(x)).min < 0 else relax.op.where(within, shifted, scalar(0, x))
    )


def _pow(node: Node) -> relax.Expr:
    x, exponent = node.input(0), node.input(1)
    known = ir.constant(exponent)
    if known is not None and known.size == 1 and rank(exponent) <= rank(x):
        value = float(known.reshape(()))
        if value == 1:
            return x
        if value == 2:
            return relax.op.multiply(x, x)
        if value == 3:
            return relax.op.multiply(relax.op.multiply(x, x), x)
        if value == 0.5 and _is_float(x):
            return relax.op.sqrt(x)
    if not _is_float(x):
        # TVM raises only floats to a power; float64 holds any integer up to 2**53.
        power = relax.op.power(relax.op.astype(x, "float64"), relax.op.astype(exponent, "float64"))
        return relax.op.astype(relax.op.round(power), ir.dtype(x))
    if ir.dtype(exponent) != ir.dtype(x):
        exponent = relax.op.astype(exponent, ir.dtype(x))
    return relax.op.power(x, exponent)


def _cast(node: Node) -> relax.Expr:
    x = node.input(0)
    dtype = dtype_name(node.attribute("to", 0), "the type to cast to")
    if dtype == ir.dtype(x):
        return x
    known = ir.constant(x)
    if known is not None and not _widens_matrix(known, dtype):
        return constant(known.astype(dtype))
    return relax.op.astype(x, dtype)


def _widens_matrix(value: np.ndarray, dtype: str) -> bool:
    """Say whether a cast makes a constant of 8 or 16 bits that may be a weight wider."""
    narrow = value.dtype.kind != "b" and value.dtype.itemsize <= 2
    is_matrix = sum(size != 1 for size in value.shape) > 1
    return is_matrix and narrow and np.dtype(dtype).itemsize > value.dtype.itemsize


TABLE: Mapping[str, Converter] = {
    "BitShift": _bit_shift,
    "Cast": _cast,
    "Celu": _celu,
    "Clip": _clip,
    "Elu": _elu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "IsInf": _is_inf,
    "LeakyRelu": _leaky_relu,
    "Max": _fold_left(relax.op.maximum),
    "Mean": _mean,
    "Min": _fold_left(relax.op.minimum),
    "Mish": _mish,
    "PRelu": _prelu,
    "Pow": _pow,
    "Selu": _selu,
    "Sum": _fold_left(relax.op.add),
    "Swish": _swish,
    "ThresholdedRelu": _thresholded_relu,
}
