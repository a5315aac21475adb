"""The harmonic mean of precision and recall of a class; the mean over classes (macro)."""

from __future__ import annotations

import numpy as np

from tvmopt.metrics.confusion import share


def by_class(matrix: np.ndarray) -> np.ndarray:
    """Return the F1 score of each class, (classes,): 2 hits / (predicted + occurring)."""
    return share(2.0 * np.diag(matrix), matrix.sum(axis=0) + matrix.sum(axis=1))


def f1(matrix: np.ndarray) -> float:
    """Return the macro F1 score in [0, 1] over the classes that occur or were predicted."""
    return float(by_class(matrix)[matrix.sum(axis=0) + matrix.sum(axis=1) > 0].mean())
