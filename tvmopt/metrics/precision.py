"""Of the samples taken for a class, the share that is of it; the mean over classes (macro)."""

from __future__ import annotations

import numpy as np

from tvmopt.metrics.confusion import share


def by_class(matrix: np.ndarray) -> np.ndarray:
    """Return the precision of each class, (classes,), 0 for a class that was never predicted."""
    return share(np.diag(matrix), matrix.sum(axis=0))


def precision(matrix: np.ndarray) -> float:
    """Return the macro precision in [0, 1] over the classes that occur or were predicted."""
    return float(by_class(matrix)[matrix.sum(axis=0) + matrix.sum(axis=1) > 0].mean())
