"""Fit the weights of a layer that are not zero to the outputs wanted. NumPy, one layer.

In the terms of ``tvmopt.passes.quantize.hessian``: of all changes D of the weights that are zero
where the weights are, the one is taken that minimizes ::

    D inputs D^T - 2 D missed^T + ridge |D|^2

and of that the share that holds for rows that it was not fitted to, from the two halves of the
rows. Rows with the same zeros are solved together.

Source: least squares; how far it is trusted is ``trusted_share`` in ``gptq``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve

from tvmopt.passes.quantize.hessian import Moments, pooled, regularized


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Refit:
    """A layer's weights, fitted anew.

    Attributes:
        rows: (o, k) float64, zero where they were.
        share: Of the change that held on other rows, in [0, 1].
        before: Squared error of the outputs, as a share of the square of those wanted.
        after: The same afterwards, not above ``before``.
    """

    rows: np.ndarray
    share: float
    before: float
    after: float


def refit_rows(
    rows: np.ndarray, halves: tuple[Moments, Moments], ridge: float, *, has_bias: bool
) -> Refit:
    """Return the weights that best give the outputs wanted.

    Args:
        rows: (o, k) float64, the weights at hand, the bias behind them; the bias may move even
            where it is zero.
        halves: Moments of two sets of rows of inputs, of one group.
        ridge: Pull towards the weights at hand, as a share of the inputs' mean square, in (0, 1].
        has_bias: Whether the last of k is the bias.
    """
    free = rows != 0
    if has_bias:
        free[:, -1] = True
    moments = pooled(*halves)
    changes = [_change(one, free, ridge, has_bias=has_bias) for one in halves]
    share = _trusted(changes, halves)
    change = share * _change(moments, free, ridge, has_bias=has_bias)
    energy = float(moments.wanted.sum()) or 1.0
    before = float(moments.error(np.zeros_like(rows)[None]).sum()) / energy
    # What is stored is float32; the error is that of what is stored.
    stored = (rows + change).astype(np.float32).astype(np.float64)
    after = float(moments.error((stored - rows)[None]).sum()) / energy
    if not after < before:
        return Refit(rows=rows, share=share, before=before, after=before)
    return Refit(rows=stored, share=share, before=before, after=after)


def _change(moments: Moments, free: np.ndarray, ridge: float, *, has_bias: bool) -> np.ndarray:
    hessian = regularized(moments.inputs, ridge, has_bias=has_bias)[0]
    result = np.zeros(free.shape)
    for rows, places in same_places(free):
        pull = moments.missed[0][np.ix_(rows, places)]
        part = hessian[np.ix_(places, places)]
        result[np.ix_(rows, places)] = solve(part, pull.T, assume_a="pos", check_finite=False).T
    return result


def _trusted(changes: list[np.ndarray], halves: tuple[Moments, Moments]) -> float:
    """Return the share of the halves' changes that serves the other half best, in [0, 1]."""
    gain = cost = 0.0
    for change, other in zip(changes, halves[::-1], strict=True):
        gain += float(np.sum(change * other.missed[0]))
        cost += float(np.sum((change @ other.inputs[0]) * change))
    return min(max(gain / cost, 0.0), 1.0) if cost > 0.0 else 1.0


def same_places(free: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the rows of each pattern, and the places that are free in it; rows of none are left.

    Args:
        free: (rows, places) bool.
    """
    groups: dict[bytes, list[int]] = {}
    for number, row in enumerate(free):
        groups.setdefault(np.packbits(row).tobytes(), []).append(number)
    for rows in groups.values():
        places = np.flatnonzero(free[rows[0]])
        if len(places):
            yield np.array(rows), places
