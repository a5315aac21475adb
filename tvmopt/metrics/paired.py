"""How sure a difference is between two models that saw the same samples."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

DRAWS = 200
SEED = 0


def flip_error(first: np.ndarray, second: np.ndarray) -> float:
    """Return the standard error of the difference of two shares: sqrt(flips) / n.

    Samples on which both are right, or both wrong, say nothing about the difference: only those
    that flip count, each of which moves it by 1 / n (Q. McNemar, "Note on the sampling error of the
    difference between correlated proportions or percentages", Psychometrika 12, 1947).

    Args:
        first: Whether each sample is right, (n,) bool, n at least 1.
        second: The same of the other model.
    """
    return float(np.sqrt(np.count_nonzero(first != second)) / len(first))


def bootstrap_error(
    measure: Callable[[np.ndarray], float], first: np.ndarray, second: np.ndarray, classes: int
) -> float:
    """Return the standard error of ``measure(first) - measure(second)`` where no formula has it.

    Source: B. Efron, "Bootstrap methods: another look at the jackknife", Annals of Statistics 7
    (1979); both models are drawn with the same samples, since the difference is paired.

    Args:
        measure: Takes a confusion matrix (classes, classes).
        first: Cell of the matrix (row * classes + column) of each sample, (n,), of one model.
        second: The same of the other.
        classes: Length of the matrix.
    """
    rng = np.random.default_rng(SEED)
    n = len(first)
    differences = np.empty(DRAWS)
    for i in range(DRAWS):
        times = np.bincount(rng.integers(0, n, n), minlength=n)
        matrices = [
            np.bincount(cells, times, classes * classes).reshape(classes, classes)
            for cells in (first, second)
        ]
        differences[i] = measure(matrices[0]) - measure(matrices[1])
    return float(np.std(differences, ddof=1))
