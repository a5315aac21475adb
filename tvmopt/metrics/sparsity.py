"""The share of a model's weights that is zero."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def sparsity(weights: Iterable[np.ndarray]) -> float:
    """Return the share of zeros among all elements of ``weights``, in [0, 1]; 0 without any."""
    zeros = elements = 0
    for weight in weights:
        zeros += weight.size - int(np.count_nonzero(weight))
        elements += weight.size
    return zeros / elements if elements else 0.0
