"""Choose the grid of a weight: where its levels end, by channel or by group.

``max`` lets the greatest weight be the last level. ``mse`` tries ends below it and takes, for each
channel or group on its own, the one of least squared error: a few clipped weights against finer
steps for all others. The fewer the bits, the more it pays.

Source: Y. Choukroun et al., "Low-bit quantization of neural networks for efficient inference", ICCV
workshops 2019 (arXiv:1902.06822), section 3, for the search of the scale by squared error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from tvmopt.errors import OptionError
from tvmopt.passes.quantize.grid import Grid, Levels, affine_grid, symmetric_grid

Method = Literal["max", "mse"]

# Shares of the greatest weight to try as the last level. Below 0.35 the clipped weights of a bell
# curve cost more than the finer steps gain, even with 2 bits.
_SHARES = np.linspace(0.35, 1.0, 53)


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightChoice:
    """How the grid of a weight is chosen.

    Attributes:
        levels: The integers; asymmetric grids where they are not as many below as above zero.
        method: ``"max"`` or ``"mse"``.
    """

    levels: Levels
    method: Method = "mse"

    def __post_init__(self) -> None:
        if self.method not in ("max", "mse"):
            raise OptionError(f"method must be 'max' or 'mse', got {self.method!r}")


def weight_grid(
    weight: np.ndarray,
    choice: WeightChoice,
    *,
    axis: int | None = None,
    group: int | None = None,
    importance: np.ndarray | None = None,
) -> Grid:
    """Return the grid for ``weight``.

    Args:
        weight: Finite floats, any shape, not empty.
        choice: Which levels, and what is to be least.
        axis: The axis of which each index gets its own scale; None for one scale.
        group: How many neighbours along ``axis`` share a scale; every index of the other axes then
            has its own.
        importance: Factors of the squared errors, broadcasting to ``weight``; None means 1.

    Returns:
        A grid whose squared error, weighted so, is no larger than that of the greatest weight as
        the last level.

    Raises:
        OptionError: ``group`` does not divide the axis.
    """
    blocks = _blocks(np.asarray(weight, np.float32), axis, group)
    low, high = (ends.astype(np.float64) for ends in (blocks.least(), blocks.greatest()))
    if choice.method == "max":
        return _grid(low, high, choice.levels, axis, group)
    factors = None if importance is None else np.broadcast_to(importance, weight.shape)
    best = np.full(low.shape, np.inf)
    share = np.ones(low.shape)
    for candidate in _SHARES[::-1]:
        grid = _grid(low * candidate, high * candidate, choice.levels, axis, group)
        error = blocks.sum_squares(grid.round_trip(weight) - weight, factors)
        better = error < best
        best, share = np.where(better, error, best), np.where(better, candidate, share)
    return _grid(low * share, high * share, choice.levels, axis, group)


def _grid(
    low: np.ndarray, high: np.ndarray, levels: Levels, axis: int | None, group: int | None
) -> Grid:
    if levels.low == -levels.high:
        return symmetric_grid(np.maximum(-low, high), levels, axis=axis, group=group)
    return affine_grid(low, high, levels, axis=axis, group=group)


@dataclass(frozen=True, slots=True)
class _Blocks:
    """A weight cut into the parts that share a scale: reductions over ``axes`` of ``split``."""

    weight: np.ndarray
    split: tuple[int, ...]
    axes: tuple[int, ...]

    def least(self) -> np.ndarray:
        return self.weight.reshape(self.split).min(self.axes)

    def greatest(self) -> np.ndarray:
        return self.weight.reshape(self.split).max(self.axes)

    def sum_squares(self, error: np.ndarray, factors: np.ndarray | None) -> np.ndarray:
        squares = np.square(error)
        if factors is not None:
            squares *= factors
        return squares.reshape(self.split).sum(self.axes, dtype=np.float64)


def _blocks(weight: np.ndarray, axis: int | None, group: int | None) -> _Blocks:
    shape = weight.shape
    if axis is None:
        return _Blocks(weight, shape, tuple(range(len(shape))))
    if group is None:
        return _Blocks(weight, shape, tuple(i for i in range(len(shape)) if i != axis % len(shape)))
    axis %= len(shape)
    if group < 1 or shape[axis] % group:
        raise OptionError(
            f"the group size must divide the {shape[axis]} rows of the weight, got {group!r}"
        )
    split = (*shape[:axis], shape[axis] // group, group, *shape[axis + 1 :])
    return _Blocks(weight, split, (axis + 1,))
