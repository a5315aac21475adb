"""Scales that move between two operators without changing what the graph computes.

Each is a power of two. Multiplying by it only moves the exponent of a float, so that the graph
computes the same bits before and after, as long as nothing overflows or becomes subnormal; what a
power of two misses of the ideal scale is at most a factor of the square root of 2.

Source: none; the definition of IEEE 754 binary32.
"""

from __future__ import annotations

import numpy as np

# No scale moves a weight further than this; beyond it lie channels that are next to nothing, and a
# float32 keeps 2^100 on either side of usual values.
_MOST = 16


def power_of_two(scale: np.ndarray) -> np.ndarray:
    """Return the nearest powers of two, float64, between 2^-16 and 2^16; ``scale``: positive."""
    return np.exp2(np.clip(np.rint(np.log2(scale)), -_MOST, _MOST))


def spread(ranges: np.ndarray) -> float:
    """Return the largest of some ranges over their median; zeros are left out, and give 1."""
    positive = ranges[ranges > 0.0]
    return float(positive.max() / np.median(positive)) if positive.size else 1.0
