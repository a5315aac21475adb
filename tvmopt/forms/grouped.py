"""Constants with a scale for each group of neighbours along one axis.

In the graph, for a matrix W: (k, n) in groups of g rows::

    wide   = astype(codes: int8 (k/g, g, n), "float32")
    middle = subtract(wide, zero: (k/g, 1, n))            left out if the codes are symmetric
    w      = reshape(multiply(middle, scale: (k/g, 1, n)), (k, n))

Source: none; ONNX DequantizeLinear's ``block_size`` spelled in Relax's operators, of which none
takes a scale a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tvm import relax

from tvmopt import ir
from tvmopt.forms.graph import Define, Emit, constant_of, ordered

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Grouped:
    """Integers with a scale for each group of neighbours along one axis.

    Attributes:
        codes: 8-bit or 16-bit integers; the grouped axis is two: ``axis`` counts groups, and
            ``axis + 1`` the elements of one.
        scale: float32; its axis ``axis + 1`` is of size 1, and it broadcasts to ``codes``.
        zero: float32, likewise; None for symmetric codes.
        axis: The grouped axis.
    """

    codes: np.ndarray
    scale: np.ndarray
    zero: np.ndarray | None
    axis: int

    @property
    def shape(self) -> Shape:
        """The shape of the constant."""
        return _merged(self.codes.shape, self.axis)

    def value(self) -> np.ndarray:
        """Return the constant as float32, bit for bit what the graph computes."""
        wide = self.codes.astype(np.float32)
        centred = wide if self.zero is None else wide - self.zero
        return (centred * self.scale).reshape(self.shape)

    def build(self, emit: Emit, name: str) -> relax.Expr:
        """Bind the form and return its variable."""
        op = relax.op
        wide = emit(op.astype(constant_of(self.codes), "float32"), f"{name}_codes")
        if self.zero is not None:
            wide = emit(op.subtract(wide, constant_of(self.zero)), f"{name}_centred")
        scaled = emit(op.multiply(wide, constant_of(self.scale)), f"{name}_groups")
        return emit(op.reshape(scaled, self.shape), name)

    def transposed(self, axes: Sequence[int]) -> Grouped:
        """Return the constant with its axes permuted; a group's elements stay together."""
        order: list[int] = []
        for a in axes:
            # Axes behind the grouped one are one further on in the codes.
            order += [a, a + 1] if a == self.axis else [a + (a > self.axis)]
        return Grouped(
            codes=ordered(self.codes.transpose(order)),
            scale=ordered(self.scale.transpose(order)),
            zero=None if self.zero is None else ordered(self.zero.transpose(order)),
            axis=list(axes).index(self.axis),
        )

    def reshaped(self, shape: Shape) -> Grouped | None:
        """Return the constant under another shape: one that only adds or drops axes of size 1."""
        if [d for d in shape if d != 1] != [d for d in self.shape if d != 1]:
            return None
        left = sum(d != 1 for d in self.shape[: self.axis])
        places = [i for i, d in enumerate(shape) if d == self.shape[self.axis]]
        axis = next((i for i in places if sum(d != 1 for d in shape[:i]) == left), None)
        if axis is None:
            return None
        groups, size = self.codes.shape[self.axis : self.axis + 2]

        def fit(values: np.ndarray, inner: int) -> np.ndarray:
            whole = np.broadcast_to(
                values,
                (*self.codes.shape[: self.axis + 1], inner, *self.codes.shape[self.axis + 2 :]),
            )
            return ordered(whole.reshape(*shape[:axis], groups, inner, *shape[axis + 1 :]))

        return Grouped(
            codes=fit(self.codes, size),
            scale=fit(self.scale, 1),
            zero=None if self.zero is None else fit(self.zero, 1),
            axis=axis,
        )


def match_grouped(call: relax.Call, define: Define) -> Grouped | None:
    """Read a call of ``relax.reshape`` as the form; None if it is not."""
    scaled = define(call.args[0])
    inner, scale = _with_constant(scaled, "relax.multiply")
    centred = None if inner is None else define(inner)
    wide, zero = _with_constant(centred, "relax.subtract")
    cast = define(wide) if wide is not None else centred
    if scale is None or not ir.is_call_to(cast, "relax.astype"):
        return None
    codes = ir.constant(cast.args[0])
    if codes is None or codes.dtype.kind not in "iu" or codes.dtype.itemsize > 2:
        return None
    shape = tuple(int(d) for d in call.args[1].values)
    scale = _with_rank(scale, codes.ndim)
    zero = None if zero is None else _with_rank(zero, codes.ndim)
    for axis in range(codes.ndim - 1):
        one = scale.shape[axis + 1] == 1 and (zero is None or zero.shape[axis + 1] == 1)
        if one and _merged(codes.shape, axis) == shape:
            return Grouped(codes=codes, scale=scale, zero=zero, axis=axis)
    return None


def _with_constant(call: relax.Expr | None, op: str) -> tuple[relax.Expr | None, np.ndarray | None]:
    """Return the two operands of ``op`` where the second is a constant of floats."""
    if call is None or not ir.is_call_to(call, op):
        return None, None
    value = ir.float_constant(call.args[1])
    return (None, None) if value is None else (call.args[0], value)


def _with_rank(values: np.ndarray, rank: int) -> np.ndarray:
    return values.reshape((1,) * (rank - values.ndim) + values.shape)


def _merged(shape: Shape, axis: int) -> Shape:
    return (*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])
