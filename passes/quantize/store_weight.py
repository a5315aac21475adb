"""Bring a layer's weight into one of the forms in which fewer bits are stored.

Source: none; the forms are those of ``tvmopt/forms``, the values those of ``weight_grid`` and
``codebook``.
"""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np

from tvmopt import forms
from tvmopt.passes.quantize.grid import Grid

RoundWeights = Callable[[str, np.ndarray, Grid], np.ndarray]
"""Takes a layer's name, its weight and its grid; returns integers within the levels, same shape."""


def to_nearest(_name: str, weight: np.ndarray, grid: Grid) -> np.ndarray:
    """Round each weight to the nearest level: the plainest ``RoundWeights``."""
    return grid.quantize(weight)


def affine_of(grid: Grid) -> forms.Affine:
    """Return what the integers of a grid without groups mean in a graph."""
    assert grid.group is None, "a grid by group has a form of its own"
    return forms.Affine(
        scale=grid.scale, zero_point=grid.zero_point, dtype=grid.levels.dtype, axis=grid.axis or 0
    )


def with_grid(codes: np.ndarray, grid: Grid) -> forms.Dequantized | forms.Grouped:
    """Return the form of integers on a grid.

    Args:
        codes: Within the grid's levels, in the weight's own layout.
        grid: For the tensor, by channel, or by group.
    """
    if grid.group is None:
        return forms.Dequantized(codes=codes, how=affine_of(grid))
    assert grid.axis is not None, "groups follow an axis"
    axis, shape = grid.axis, codes.shape
    cut = (*shape[:axis], shape[axis] // grid.group, grid.group, *shape[axis + 1 :])
    zero = np.expand_dims(grid.zero_point, axis + 1).astype(np.float32)
    return forms.Grouped(
        codes=codes.reshape(cut),
        scale=np.expand_dims(grid.scale, axis + 1),
        zero=zero if zero.any() else None,
        axis=axis,
    )


def as_half(weight: np.ndarray, dtype: str) -> forms.Cast | str:
    """Return the weight rounded to 16 bits, or why it cannot be.

    Args:
        weight: float32.
        dtype: ``"float16"`` or ``"bfloat16"``.
    """
    narrow = np.dtype(np.float16 if dtype == "float16" else ml_dtypes.bfloat16)
    with np.errstate(over="ignore"):  # looked for below
        values = weight.astype(narrow)
    if not np.isfinite(values.astype(np.float32)).all():
        return f"a weight of {np.abs(weight).max():.3g} does not fit {dtype}"
    return forms.Cast(values=values)
