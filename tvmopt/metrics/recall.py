"""Of the samples of a class, the share that was found; the mean over classes (macro)."""

from __future__ import annotations

import numpy as np

from tvmopt.metrics.confusion import share


def by_class(matrix: np.ndarray) -> np.ndarray:
    """Return the recall of each class, (classes,), 0 for a class that does not occur."""
    return share(np.diag(matrix), matrix.sum(axis=1))


def recall(matrix: np.ndarray) -> float:
    """Return the macro recall in [0, 1] over the classes that occur or were predicted."""
    return float(by_class(matrix)[matrix.sum(axis=0) + matrix.sum(axis=1) > 0].mean())
