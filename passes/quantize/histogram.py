"""What is kept of a tensor's values over many batches: extremes and a histogram, in fixed memory.

A bin is as wide as a power of two and begins at a multiple of its width. When a value falls
outside, the width doubles and bins merge in pairs, exactly. So the counts depend on the set of
values alone, not on their order or on how they came in batches: streaming gives what one pass over
all values with the final width would give.

Source: none; derived here. Y. Ben-Haim and E. Tom-Tov, "A streaming parallel decision tree
algorithm", JMLR 11, 2010, merge bins too, but their result depends on the order.
"""

from __future__ import annotations

import math

import numpy as np

from tvmopt.errors import DataError

BINS = 4096  # More than 2000 are in use: ten for each of 256 levels, within 32 kB.
MOMENTUM = 0.9  # Of the moving average: about the last ten batches count.
_FINEST = -120  # Bins of 2^-120: what is smaller is as good as 0.
_FARTHEST = 2**30  # Bins finer than 2^-30 of a value would split neighbours in float32.


class Histogram:
    """The values seen so far, rounded down to the bin.

    Attributes:
        counts: (BINS,) int64.
        exponent: A bin is 2^exponent wide.
        first: The first bin begins at first * 2^exponent.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.exponent = _FINEST
        self.first = 0

    @property
    def width(self) -> float:
        """The width of a bin."""
        return math.ldexp(1.0, self.exponent)

    def add(self, values: np.ndarray, low: float, high: float) -> None:
        """Count finite float32 values, any shape, not empty, that span ``low`` to ``high``."""
        self._widen(low, high)
        # Exact: a power of two scales without rounding.
        bins = np.floor(values.ravel() * np.float64(1.0 / self.width)).astype(np.int64)
        self.counts += np.bincount(bins - self.first, minlength=BINS)

    def centers(self) -> np.ndarray:
        """Return the middle of each bin, (BINS,) float64."""
        return (self.first + np.arange(BINS) + 0.5) * self.width

    def _widen(self, low: float, high: float) -> None:
        """Let the bins hold ``low`` and ``high`` besides what they hold already."""
        held = self.first + np.flatnonzero(self.counts)
        least, last = (math.floor(end / self.width) for end in (low, high))
        if held.size:
            least, last = min(least, int(held[0])), max(last, int(held[-1]))
        doublings = 0
        while (last >> doublings) - (least >> doublings) >= BINS or max(
            abs(least), abs(last)
        ) >> doublings >= _FARTHEST:
            doublings += 1
        first = least >> doublings
        counts = np.zeros(BINS, np.int64)
        np.add.at(counts, (held >> doublings) - first, self.counts[held - self.first])
        self.counts, self.first = counts, first
        self.exponent += doublings


class Statistics:
    """Everything that a range method may ask of a tensor; its memory is constant.

    Attributes:
        count: How many values were seen.
        low: The least value; infinity before the first.
        high: The greatest value; minus infinity before the first.
        average_low: Exponential moving average of the batches' least values.
        average_high: Exponential moving average of their greatest.
        histogram: All values.
    """

    def __init__(self, name: str, *, counted: bool = True) -> None:
        """Begin with no values.

        Args:
            name: The tensor's, for messages.
            counted: Whether to fill the histogram, which takes longer than all else.
        """
        self.counted = counted
        self.name = name
        self.count = 0
        self.low, self.high = math.inf, -math.inf
        self.average_low, self.average_high = math.nan, math.nan
        self.histogram = Histogram()

    def update(self, values: np.ndarray) -> None:
        """Take in one batch; values: any shape, not empty.

        Raises:
            DataError: A value is NaN or infinite.
        """
        values = np.asarray(values, np.float32)
        low, high = float(values.min()), float(values.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            odd = low if not math.isfinite(low) else high
            raise DataError(
                f"tensor {self.name!r} must be finite on every calibration sample, got {odd}; "
                "leave out the samples on which the model overflows"
            )
        keep = MOMENTUM if self.count else 0.0
        self.average_low = low if not self.count else keep * self.average_low + (1 - keep) * low
        self.average_high = high if not self.count else keep * self.average_high + (1 - keep) * high
        self.count += values.size
        self.low, self.high = min(self.low, low), max(self.high, high)
        if self.counted:
            self.histogram.add(values, low, high)
