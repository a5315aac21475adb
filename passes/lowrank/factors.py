"""The thin layers that stand for one layer, as weights and as operators.

A layer is a matmul or a convolution of one group; its factors follow each other, none but the last
with a bias::

    y = conv2d(x, W)                 h = conv2d(x, first);  y = conv2d(h, last)

Each does a *part* of what the layer did to places: all of it, its vertical or horizontal half, or
none ("point", a 1x1). Where no factor has a bias, the zeros beside an image stay zeros on the way,
so that padding splits like strides and dilation do, and the product of the weights computes the
same outputs.

Source: M. Jaderberg, A. Vedaldi and A. Zisserman, "Speeding up convolutional neural networks with
low rank expansions", BMVC 2014, for the halves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import numpy as np
from tvm import relax

from tvmopt import forms, ir

Part = Literal["all", "vertical", "horizontal", "point"]
Shape = tuple[Part, tuple[int, int, int, int]]
"""What a factor does to places, and the shape of its weight."""

_SUFFIXES = ("first", "core")  # of the names of the factors before the last one


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Factor:
    """One thin layer.

    Attributes:
        part: What it does to places.
        weight: (outputs, kernel height, kernel width, inputs) float64; of a matmul the kernel is 1.
    """

    part: Part
    weight: np.ndarray

    @property
    def shape(self) -> Shape:
        """What decides how long it takes."""
        o, kh, kw, c = self.weight.shape
        return self.part, (o, kh, kw, c)


def product(factors: Sequence[Factor]) -> np.ndarray:
    """Return the weight of the one layer that computes what the factors do.

    Returns:
        (outputs, kernel height * kernel width * inputs) float64.
    """
    whole = reduce(_after, (factor.weight for factor in factors))
    return whole.reshape(len(whole), -1)


def _after(first: np.ndarray, then: np.ndarray) -> np.ndarray:
    """Return the kernel of one convolution after another; along each axis one of them is 1 wide."""
    whole = np.einsum("oabr,rijc->oaibjc", then, first, optimize=True)
    o, a, i, b, j, c = whole.shape
    return whole.reshape(o, a * i, b * j, c)


def build(call: relax.Call, factors: Sequence[Factor], name: str, emit: forms.Emit) -> relax.Call:
    """Return what stands for a layer's operator: its last factor.

    Args:
        call: The operator.
        factors: What stands for it.
        name: The layer's; the other factors are named after it.
        emit: Binds the other factors before the last one.
    """
    *earlier, last = factors
    data = call.args[0]
    for factor, suffix in zip(earlier, _SUFFIXES, strict=False):
        data = emit(_operator(call, factor, data), f"{name}__{suffix}")
    return _operator(call, last, data)


def factor_names(name: str) -> tuple[str, ...]:
    """Return all names that factors of the layer of a name may have."""
    return (name, *(f"{name}__{suffix}" for suffix in _SUFFIXES))


def _operator(call: relax.Call, factor: Factor, data: relax.Expr) -> relax.Call:
    values = factor.weight.astype(np.float32)
    if ir.is_call_to(call, "relax.matmul"):
        weight = np.ascontiguousarray(values[:, 0, 0, :].T)
        return relax.op.matmul(data, relax.const(weight))
    strides, padding = ir.pair(call.attrs.strides), ir.sides(call.attrs.padding)
    dilation = ir.pair(call.attrs.dilation)
    down = factor.part in ("all", "vertical")
    right = factor.part in ("all", "horizontal")
    top, left, bottom, across = padding
    return relax.op.nn.conv2d(
        data,
        relax.const(np.ascontiguousarray(values)),
        strides=_split(strides, down, right),
        padding=(top * down, left * right, bottom * down, across * right),
        dilation=_split(dilation, down, right),
        data_layout="NHWC",
        kernel_layout="OHWI",
        out_layout="NHWC",
    )


def _split(pair: tuple[int, int], down: bool, right: bool) -> tuple[int, int]:
    return pair[0] if down else 1, pair[1] if right else 1
