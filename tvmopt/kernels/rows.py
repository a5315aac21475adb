"""Where the rows of a tensor lie: one after another, or each within a row of a wider tensor.

A row is what the innermost axis holds, such as the channels of an NHWC pixel. A kernel that writes
rows of a wider tensor makes its part of a concatenation along channels for nothing, and one that
reads them reads a split where it lies::

    y: (pixels, 24), pitch 96       each pixel's 24 channels, among the 96 of another tensor

A kernel's parameter says so by the strides of its buffer, and by the buffer's alignment how far the
first row may be off a cache line.

Source: none; derived here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd, prod

from tvm import tirx

LINE_BYTES = 64  # what every kernel may assume of a dense tensor's place


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """Rows within wider ones.

    Attributes:
        pitch: Elements from one row's start to the next one's.
        align: Bytes that the first row's start is a multiple of, a power of two.
    """

    pitch: int
    align: int

    @classmethod
    def within(cls, pitch: int, first: int, item_bytes: int) -> Rows:
        """Return the rows that begin at element ``first`` of rows of ``pitch`` elements."""
        return cls(pitch=pitch, align=gcd(first * item_bytes, LINE_BYTES))

    def strides(self, shape: Sequence[int]) -> list[int]:
        """Return the elements between neighbours along each axis of a tensor of that shape."""
        return [*(self.pitch * prod(shape[axis + 1 : -1]) for axis in range(len(shape) - 1)), 1]

    def span(self, shape: Sequence[int]) -> int:
        """Return the elements from a tensor's first to its last."""
        return (prod(shape[:-1]) - 1) * self.pitch + shape[-1]


def pitch_of(rows: Rows | None, width: int) -> int:
    """Return the elements between the starts of two rows of ``width`` elements."""
    return width if rows is None else rows.pitch


def rows_of(param: tirx.Buffer) -> Rows | None:
    """Return where a kernel's parameter has its rows; None where they follow one another."""
    strides = [int(stride) for stride in param.strides]
    if len(strides) < 2:
        return None
    return Rows(pitch=strides[-2], align=int(param.data_alignment))


def crossing(pitch_bytes: int, first_byte: int, vector_bytes: int) -> float:
    """Return which share of vectors begins in one cache line and ends in the next.

    Args:
        pitch_bytes: From one row's start to the next one's.
        first_byte: Where the first row begins, from the start of a line.
        vector_bytes: Of a vector, at most a line; the vectors of a row follow one another.
    """
    step = gcd(pitch_bytes, vector_bytes, LINE_BYTES)  # all places that are so far apart occur
    places = range(first_byte % step, LINE_BYTES, step)
    return sum(place + vector_bytes > LINE_BYTES for place in places) / len(places)
