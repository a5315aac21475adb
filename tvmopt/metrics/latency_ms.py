"""How long one inference takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyMs:
    """The distribution of one inference's time, milliseconds.

    Attributes:
        p50: The median.
        p90: Nine runs in ten take at most this.
        p99: Ninety-nine runs in a hundred take at most this.
        least: The fastest run.
        runs: How many were timed.
    """

    p50: float
    p90: float
    p99: float
    least: float
    runs: int


def latency_ms(seconds: np.ndarray) -> LatencyMs:
    """Return the percentiles of times (runs,), seconds, at least one."""
    p50, p90, p99 = (float(p) * 1e3 for p in np.percentile(seconds, [50, 90, 99]))
    least = float(np.min(seconds)) * 1e3
    return LatencyMs(p50=p50, p90=p90, p99=p99, least=least, runs=len(seconds))
