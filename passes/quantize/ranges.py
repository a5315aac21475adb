"""Which range of values the levels of an activation are to span.

Each method is a function from the streamed statistics of a tensor, and the levels there are, to
(low, high). Values beyond are clipped; the narrower the range, the finer the steps.

Sources, method by method:

* ``minmax``: R. Krishnamoorthi, arXiv:1806.08342, section 2.1: nothing is clipped.
* ``moving_average``: B. Jacob et al., CVPR 2018 (arXiv:1712.05877), section 3.1: the batches'
  extremes, averaged exponentially, so that a rare batch moves the range little.
* ``percentile``: H. Wu et al., "Integer quantization for deep learning inference: principles and
  empirical evaluation", arXiv:2004.09602, section 5.2: a given share of the values stays unclipped.
* ``mse``: W. Sung et al., "Resiliency of deep neural networks under quantization",
  arXiv:1511.06488, section 3: the least squared error.
* ``entropy``: S. Migacz, "8-bit inference with TensorRT", GTC 2017: the least Kullback-Leibler
  divergence of the levels' distribution from that of the values. Extended here to ranges whose two
  ends move, one after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np

from tvmopt.errors import OptionError
from tvmopt.passes.quantize.grid import Levels, affine_grid
from tvmopt.passes.quantize.histogram import BINS, Statistics

Range = tuple[float, float]
RangeMethod = Literal["minmax", "moving_average", "percentile", "mse", "entropy"]

# The methods that look at the histogram and not only at the extremes.
COUNTING: tuple[RangeMethod, ...] = ("percentile", "mse", "entropy")

_SHARES = np.geomspace(0.02, 1.0, 100)  # Of an end, where ends are searched: 4 % apart.

# A bin is a point mass if it holds this many times what the bins within reach hold on average.
_SPIKE, _REACH = 4.0, 8


def minmax(stats: Statistics) -> Range:
    """Return the least and the greatest value seen."""
    return stats.low, stats.high


def moving_average(stats: Statistics) -> Range:
    """Return the averages over batches of their least and of their greatest value."""
    return stats.average_low, stats.average_high


def percentile(stats: Statistics, share: float) -> Range:
    """Return the range that holds a share of the values, the rest half below and half above.

    Args:
        stats: Of the tensor.
        share: In percent, in (50, 100].

    Returns:
        Ends within one bin of the exact quantiles, and never beyond the extremes.
    """
    histogram, outside = stats.histogram, (1.0 - share / 100.0) / 2.0 * stats.count
    below = np.cumsum(histogram.counts)
    # The bins in which the values of rank `outside` from either side lie, taken whole.
    first = int(np.searchsorted(below, outside, side="right"))
    last = int(np.searchsorted(below, stats.count - outside, side="left"))
    edges = histogram.centers() + 0.5 * histogram.width
    low = edges[min(first, BINS - 1)] - histogram.width
    return max(stats.low, float(low)), min(stats.high, float(edges[min(last, BINS - 1)]))


def mse(stats: Statistics, levels: Levels) -> Range:
    """Return the range whose grid has the least squared error, as far as the bins tell."""
    histogram = stats.histogram
    held = histogram.counts > 0
    values, counts = histogram.centers()[held], histogram.counts[held].astype(np.float64)

    def loss(low: float, high: float) -> float:
        grid = affine_grid(low, high, levels)
        return float(counts @ np.square(grid.round_trip(values) - values))

    return _least(stats, loss)


def entropy(stats: Statistics, levels: Levels) -> Range:
    """Return the range whose grid keeps most of the distribution, as far as the bins tell.

    Point masses, such as the zeros of a rectifier or what a constant background gives, count
    within the range no more than a few times their neighbours: how they fall into a level is luck,
    and they would drown all else (TensorRT does so with the bin of zero).
    """
    centers, counts = stats.histogram.centers(), stats.histogram.counts.astype(np.float64)
    smooth = np.minimum(counts, _SPIKE * _beside(counts))

    def loss(low: float, high: float) -> float:
        return _divergence(centers, counts, smooth, low, high, levels)

    return _least(stats, loss)


def choose_range(
    stats: Statistics, method: RangeMethod, levels: Levels, share: float = 99.99
) -> Range:
    """Return the range of a tensor by the method of that name.

    Args:
        stats: Of the tensor.
        method: Which of this module's functions.
        levels: What the range will be cut into.
        share: For ``percentile``: in percent, in (50, 100].

    Raises:
        OptionError: As ``check_range``.
    """
    check_range(method, share, levels)
    if method == "minmax":
        return minmax(stats)
    if method == "moving_average":
        return moving_average(stats)
    if method == "percentile":
        return percentile(stats, share)
    return mse(stats, levels) if method == "mse" else entropy(stats, levels)


def check_range(method: str, share: float, levels: Levels) -> None:
    """Check a method and what it is given.

    Raises:
        OptionError: ``method`` is unknown or searches a histogram too coarse for the levels, or
            ``share`` is outside (50, 100].
    """
    if method not in get_args(RangeMethod):
        known = ", ".join(get_args(RangeMethod))
        raise OptionError(f"the range method must be one of {known}, got {method!r}")
    if not 50.0 < share <= 100.0:
        raise OptionError(f"percentile must be in (50, 100], got {share!r}")
    if method in ("mse", "entropy") and levels.steps > BINS // 4:
        raise OptionError(
            f"range method {method!r} must search for at most {BINS // 4} levels, got "
            f"{levels.steps + 1}; take 'minmax' or 'percentile'"
        )


def _least(stats: Statistics, loss: Callable[[float, float], float]) -> Range:
    """Shrink both ends alike, then each on its own, to the least loss; ties keep the wider."""
    low, high = min(stats.low, 0.0), max(stats.high, 0.0)
    shares = _SHARES[::-1]
    both = min(shares, key=lambda share: loss(low * share, high * share))
    if low == 0.0 or high == 0.0:
        return low * both, high * both
    up = min(shares, key=lambda share: loss(low * both, high * share))
    down = min(shares, key=lambda share: loss(low * share, high * up))
    return low * down, high * up


def _beside(counts: np.ndarray) -> np.ndarray:
    """Return the mean count of the bins beside each that hold values."""
    kernel = np.ones(2 * _REACH + 1)
    kernel[_REACH] = 0.0
    held = np.convolve(counts > 0, kernel, "same")
    return np.convolve(counts, kernel, "same") / np.maximum(held, 1.0)


def _divergence(
    centers: np.ndarray,
    counts: np.ndarray,
    smooth: np.ndarray,
    low: float,
    high: float,
    levels: Levels,
) -> float:
    """Return KL(P || Q): P the values clipped to the range, Q what its levels leave of them.

    A level's mass is spread evenly over those of its bins that hold values, so that a bin without
    values costs nothing; what was clipped weighs on the outermost bins of P alone.
    """
    grid = affine_grid(low, high, levels)
    inside = (centers >= low) & (centers <= high)
    kept = np.where(inside, smooth, 0.0)
    if not kept.any():
        return np.inf
    clipped = kept.copy()
    first, last = np.flatnonzero(inside)[[0, -1]]
    clipped[first] += counts[:first].sum()
    clipped[last] += counts[last + 1 :].sum()
    level = grid.quantize(centers).astype(np.int64) - levels.low
    size = levels.steps + 1
    mass = np.bincount(level, kept, size)
    bins = np.bincount(level, (kept > 0).astype(np.float64), size)
    spread = np.where(kept > 0, (mass / np.maximum(bins, 1.0))[level], 0.0)
    p, q = clipped / clipped.sum(), spread / spread.sum()
    # An outermost bin that only clipping fills has no mass in Q; as Migacz, give it next to none.
    q = np.where((p > 0) & (q == 0), 1e-9, q)
    held = p > 0
    return float(p[held] @ np.log(p[held] / q[held]))
