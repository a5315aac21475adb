"""The share of samples whose highest score is that of their class."""

from __future__ import annotations

import numpy as np


def accuracy(matrix: np.ndarray) -> float:
    """Return the accuracy in [0, 1] of a confusion matrix (classes, classes)."""
    return float(np.trace(matrix) / matrix.sum())
