"""Pictures as classifiers are fed: from stored bytes to normalized floats."""

from __future__ import annotations

import numpy as np

from benchmarks.accuracy.reference import Arrays

# Of ImageNet, red, green and blue, in [0, 1].
MEAN = np.array([0.485, 0.456, 0.406], np.float32).reshape(3, 1, 1)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32).reshape(3, 1, 1)


def centred(stored: Arrays, name: str, middle: float, scale: float) -> dict[str, np.ndarray]:
    """Return pixels (n, 3, h, w) as (pixel - middle) / scale, float32, for the input ``name``."""
    pixels = stored["image"].astype(np.float32)
    return {name: (pixels - np.float32(middle)) / np.float32(scale)}


def standardized(stored: Arrays, name: str) -> dict[str, np.ndarray]:
    """Return pixels (n, 3, h, w) in ImageNet's standard scores, for the input ``name``."""
    pixels = stored["image"].astype(np.float32) / np.float32(255)
    return {name: (pixels - MEAN) / DEVIATION}
