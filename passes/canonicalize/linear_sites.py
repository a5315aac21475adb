"""What folding needs to know of an operator that is linear in a constant weight.

Convolutions, transposed convolutions and matmuls by a constant matrix look alike once their weight
is written as (groups, outputs of a group, inputs of a group, taps): a scale for each output channel
multiplies axis 1, one for each input channel axis 2, and a constant input sums over axes 2 and 3.

Source: none; derived here from the definitions of the operators.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import relax

from tvmopt import ir

_CONVOLUTIONS = ("relax.nn.conv1d", "relax.nn.conv2d", "relax.nn.conv3d")
_TRANSPOSED = tuple(f"{name}_transpose" for name in _CONVOLUTIONS)


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearSite:
    """One operator that is linear in a constant weight.

    Attributes:
        weight: The constant, in its own layout and dtype.
        channel_axis: The axis of the channels, in the data and in the result.
        rank: The number of dimensions of the result.
        output_axis: The axis of the outputs in the weight.
        input_axis: The axis of the inputs in the weight.
        groups: The number of groups.
        transposed: Whether the weight's input axis, not its output axis, runs over all groups.
        is_matmul: Whether it is a matmul.
        takes_shift: Whether a constant added to each input channel adds a constant to each output
            channel: not so where padding lets border outputs see fewer taps.
    """

    weight: np.ndarray
    channel_axis: int
    rank: int
    output_axis: int
    input_axis: int
    groups: int
    transposed: bool
    is_matmul: bool
    takes_shift: bool

    def grouped(self) -> np.ndarray:
        """Return the weight as (groups, outputs, inputs, taps) in float64."""
        w = np.moveaxis(self.weight.astype(np.float64), (self.output_axis, self.input_axis), (0, 1))
        if not self.transposed:
            return w.reshape(self.groups, w.shape[0] // self.groups, w.shape[1], -1)
        w = w.reshape(w.shape[0], self.groups, w.shape[1] // self.groups, -1)
        return w.swapaxes(0, 1)

    def ungrouped(self, grouped: np.ndarray) -> np.ndarray:
        """Return (groups, outputs, inputs, taps) in the weight's own layout and dtype."""
        moved = np.moveaxis(self.weight, (self.output_axis, self.input_axis), (0, 1)).shape
        w = grouped.swapaxes(0, 1) if self.transposed else grouped
        w = np.moveaxis(w.reshape(moved), (0, 1), (self.output_axis, self.input_axis))
        with np.errstate(over="ignore"):  # the caller looks for what is not finite
            return np.array(w.astype(self.weight.dtype), order="C")


def linear_site(value: relax.Expr, rank: int) -> LinearSite | None:
    """Describe a call that is linear in a constant floating-point weight, else return None.

    Args:
        value: The value of a binding.
        rank: The number of dimensions of the result.
    """
    if ir.is_call_to(value, "relax.matmul"):
        weight = ir.float_constant(value.args[1])
        if weight is None or weight.ndim != 2 or len(ir.shape(value.args[0])) != rank:
            return None
        return LinearSite(
            weight=weight,
            channel_axis=rank - 1,
            rank=rank,
            output_axis=1,
            input_axis=0,
            groups=1,
            transposed=False,
            is_matmul=True,
            takes_shift=True,
        )
    if ir.is_call_to(value, *_CONVOLUTIONS, *_TRANSPOSED):
        return _convolution(value, rank)
    return None


def _convolution(call: relax.Call, rank: int) -> LinearSite | None:
    weight, attrs = ir.float_constant(call.args[1]), call.attrs
    if weight is None or attrs.out_layout != attrs.data_layout or len(attrs.data_layout) != rank:
        return None
    transposed = ir.is_call_to(call, *_TRANSPOSED)
    return LinearSite(
        weight=weight,
        channel_axis=attrs.data_layout.index("C"),
        rank=rank,
        output_axis=attrs.kernel_layout.index("O"),
        input_axis=attrs.kernel_layout.index("I"),
        groups=int(attrs.groups),
        transposed=transposed,
        is_matmul=False,
        takes_shift=not transposed and not any(int(p) for p in attrs.padding),
    )
