"""The share of samples whose class is among the k highest scores."""

from __future__ import annotations

import numpy as np


def in_top_k(scores: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Return whether each sample's class is among its ``k`` highest scores, (n,) bool.

    Args:
        scores: (n, classes); equal scores count against the class.
        labels: (n,), whole numbers in [0, classes).
        k: At least 1.
    """
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    others = np.arange(scores.shape[1]) != labels[:, None]
    return np.sum((scores >= own) & others, axis=1) < k


def top_k(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Return the top-k accuracy in [0, 1]; see ``in_top_k``."""
    return float(np.mean(in_top_k(scores, labels, k)))
