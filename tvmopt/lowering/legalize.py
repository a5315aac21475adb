"""How operators without a kernel generator become TIR, where TVM does it wrong or imprecisely."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import tvm
from tvm import relax, te

from tvmopt.kernels.vector import Expr

# What a sum adds up: of a place in the tensor and the place in the result.
Element = Callable[[list[Expr], tuple[tvm.tirx.Var, ...]], Expr]


def layer_norm(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """Legalize ``relax.nn.layer_norm``; see ``normalize``."""

    def compute(x: te.Tensor, gamma: te.Tensor, beta: te.Tensor) -> te.Tensor:
        return normalize(x, gamma, beta, call.attrs)

    return builder.call_te(compute, *call.args, primfunc_name_hint="layer_norm")


def normalize(
    x: te.Tensor, gamma: te.Tensor, beta: te.Tensor, attrs: relax.op.op_attrs.LayerNormAttrs
) -> te.Tensor:
    """Return the layer norm in two passes: the mean, then the mean of squared distances.

    TVM takes E[x^2] - E[x]^2 in one pass, which cancels where the mean is large against the spread.

    Args:
        x: Of any shape.
        gamma: Factors, of the extents of the normalized axes.
        beta: Addends, likewise.
        attrs: Which axes, the least variance, and whether gamma and beta are used.
    """
    rank = len(x.shape)
    axes = [int(axis) % rank for axis in attrs.axes]
    outer = [extent for axis, extent in enumerate(x.shape) if axis not in axes]

    def split(indices: tuple[tvm.tirx.Var, ...]) -> list[Expr]:
        return [index for axis, index in enumerate(indices) if axis not in axes]

    def total(name: str, element: Element) -> te.Tensor:
        inner = [te.reduce_axis((0, x.shape[axis]), name=f"r{axis}") for axis in axes]

        def row(*indices: tvm.tirx.Var) -> Expr:
            rest, here = iter(indices), iter(inner)
            place = [next(here) if axis in axes else next(rest) for axis in range(rank)]
            return te.sum(element(place, indices), axis=inner)

        return te.compute(outer, row, name=name)

    scale = tvm.tirx.const(1.0 / prod(int(x.shape[axis]) for axis in axes), x.dtype)
    sums = total("sum", lambda place, _: x(*place))
    mean = te.compute(outer, lambda *i: sums(*i) * scale, name="mean")

    def squared(place: list[Expr], indices: tuple[tvm.tirx.Var, ...]) -> Expr:
        distance = x(*place) - mean(*indices)
        return distance * distance

    squares = total("squares", squared)
    least = tvm.tirx.const(float(attrs.epsilon), x.dtype)
    spread = te.compute(outer, lambda *i: te.rsqrt(squares(*i) * scale + least), name="spread")

    def normal(*indices: tvm.tirx.Var) -> Expr:
        row, inner = split(indices), [indices[axis] for axis in axes]
        value = (x(*indices) - mean(*row)) * spread(*row)
        if attrs.scale:
            value = value * gamma(*inner)
        return value + beta(*inner) if attrs.center else value

    return te.compute(x.shape, normal, name="layer_norm")


LEGALIZE = {"relax.nn.layer_norm": layer_norm}
