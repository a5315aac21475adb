"""Least squares that factors are made of. NumPy.

In the terms of ``problem``: weights w are fitted to t where errors count as (w - t) H (w - t)^T.

Sources: C. Eckart and G. Young, "The approximation of one matrix by another of lower rank",
Psychometrika 1 (1936), for the truncation, here of t L; M. Hestenes and E. Stiefel, "Methods of
conjugate gradients for solving linear systems", 1952.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from scipy.linalg import solve_triangular

from tvmopt.passes.lowrank.factors import Factor, Shape

_SMALL = 1e-12  # a residual, by the first one, at which conjugate gradients stop


class Line(Protocol):
    """Factors of one layer by one method, one rank of which is still open."""

    @property
    def method(self) -> str:
        """Its name, as options have it."""
        ...

    @property
    def most(self) -> int:
        """The largest rank."""
        ...

    def error(self, rank: int) -> float:
        """Return the error that factors of a rank add, before they are refined."""
        ...

    def rank_at(self, energy: float) -> int:
        """Return the least rank that holds a share of the squared singular values."""
        ...

    def shapes(self, rank: int) -> tuple[Shape, ...]:
        """Return what decides the time of factors of a rank."""
        ...

    def solve(self, rank: int, sweeps: int, /) -> tuple[Factor, ...]:
        """Return factors of a rank, refined by going over them ``sweeps`` times."""
        ...

    def describe(self, rank: int) -> str:
        """Return what people call it."""
        ...


def reduced_rank(
    wanted: np.ndarray, metric: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the factors of every rank that come nearest.

    Args:
        wanted: (o, k).
        metric: (k, k), positive definite.

    Returns:
        A (o, p), B (p, k) and the singular values (p,) of ``wanted @ L``, descending, p being the
        lesser of o and k: ``A[:, :r] @ B[:r]`` is the nearest of rank r, and ``B metric B^T`` is
        1, so that what is between the factors is of even size.
    """
    lower = np.linalg.cholesky(metric)
    left, values, right = np.linalg.svd(wanted @ lower, full_matrices=False)
    return left * values, solve_triangular(lower, right.T, trans="T", lower=True).T, values


def prefix_errors(
    outer: np.ndarray, gram: np.ndarray, pull: np.ndarray, constant: float
) -> np.ndarray:
    """Return the error of ``A[:, :r] @ B[:r]`` for every r from 0.

    Args:
        outer: A, (o, p).
        gram: (p, p), ``B H B^T``.
        pull: (p, o), ``B H t^T``.
        constant: ``t H t^T``, summed over outputs: the error of rank 0.

    Returns:
        (p + 1,), at least 0.
    """
    linear = np.cumsum(np.sum(outer.T * pull, axis=1))
    quadratic = np.cumsum(np.cumsum((outer.T @ outer) * gram, axis=0), axis=1).diagonal()
    return np.maximum(constant + np.append(0.0, quadratic - 2.0 * linear), 0.0)


def energy_of(wanted: np.ndarray, metric: np.ndarray) -> float:
    """Return ``w H w^T``, summed over outputs, of weights (o, k)."""
    return float(np.sum((wanted @ metric) * wanted))


def conjugate_gradients(
    apply: Callable[[np.ndarray], np.ndarray], right: np.ndarray, start: np.ndarray, steps: int
) -> np.ndarray:
    """Return x nearer to ``apply(x) == right`` than ``start`` is, of its shape.

    Args:
        apply: A symmetric, positive semidefinite linear map.
        right: What it shall give.
        start: Where to begin.
        steps: At most how many steps; none makes ``x apply(x) / 2 - x right`` larger.
    """
    x, residual = start, right - apply(start)
    way, size = residual, float(np.vdot(residual, residual))
    enough = _SMALL**2 * float(np.vdot(right, right))
    for _ in range(steps):
        if size <= enough:
            break
        seen = apply(way)
        length = size / float(np.vdot(way, seen))
        x, residual = x + length * way, residual - length * seen
        before, size = size, float(np.vdot(residual, residual))
        way = residual + size / before * way
    return x
