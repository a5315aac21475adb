"""Whether two models give samples the same class, and where that says something."""

from __future__ import annotations

import numpy as np


def same_class(scores: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return whether the highest score is of the same class, (n,) bool.

    Args:
        scores: (n, classes), any scale; of equal scores the first wins.
        reference: The other model's, of the same shape.
    """
    return np.argmax(scores, axis=1) == np.argmax(reference, axis=1)


def margins(logits: np.ndarray) -> np.ndarray:
    """Return by how much the likeliest class is likelier than the next, (n,) float64 in [0, 1].

    Where the margin is tiny, which class wins is a matter of rounding, not of the model.

    Args:
        logits: (n, classes), at least 2 classes; the likelihoods are their softmax.
    """
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    likelihoods = np.exp(shifted)
    likelihoods /= likelihoods.sum(axis=1, keepdims=True)
    second, first = np.partition(likelihoods, -2, axis=1)[:, -2:].T
    return first - second
