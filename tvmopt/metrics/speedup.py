"""How much faster one engine is than another, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class Speedup:
    """Old time / new time; above 1 the new one is faster.

    Attributes:
        ratio: Of the medians of all runs.
        q1: First quartile of the ratios of each round's medians.
        q3: Third quartile of them.
        least: The smallest of them.
        most: The largest of them.
    """

    ratio: float
    q1: float
    q3: float
    least: float
    most: float


def speedup(old: Sequence[np.ndarray], new: Sequence[np.ndarray]) -> Speedup:
    """Compare two engines that took turns.

    Args:
        old: Times of each round, (runs,) each, seconds; at least one round.
        new: As ``old``; round i of both ran side by side, so a slow spell of the machine hits both.
    """
    rounds = [float(np.median(a) / np.median(b)) for a, b in zip(old, new, strict=True)]
    q1, q3 = np.percentile(rounds, [25, 75])
    return Speedup(
        ratio=float(np.median(np.concatenate(old)) / np.median(np.concatenate(new))),
        q1=float(q1),
        q3=float(q3),
        least=min(rounds),
        most=max(rounds),
    )
