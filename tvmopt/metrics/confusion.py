"""Count which class was taken for which."""

from __future__ import annotations

import numpy as np


def confusion(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return how many samples of class i (row) got the highest score for class j (column).

    Args:
        scores: (n, classes), any scale; of equal scores the first wins.
        labels: (n,), whole numbers in [0, classes).

    Returns:
        (classes, classes) int64; it sums to n.
    """
    classes = scores.shape[1]
    return np.bincount(cells(scores, labels), minlength=classes**2).reshape(classes, classes)


def cells(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return each sample's cell in the matrix, row * classes + column, (n,); see ``confusion``."""
    return labels.astype(np.int64) * scores.shape[1] + np.argmax(scores, axis=1)


def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return part / whole, 0 where the whole is 0."""
    return np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)
