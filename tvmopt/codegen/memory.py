"""Lay buffers into one arena so that no two that live at once overlap.

Source: Y. Pisarchyk and J. Lee, "Efficient Memory Management for Deep Neural Net Inference",
MLSys workshop on on-device intelligence, 2020 (arXiv:2001.03288): the greedy-by-size offset
calculation (largest first, each into the smallest gap that holds it), which came within 0.1 % of
the lower bound on the networks they tried.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvmopt.codegen.plan import align_up


@dataclass(frozen=True, kw_only=True, slots=True)
class Buffer:
    """Memory that is needed for a while.

    Attributes:
        size: Bytes.
        first: The step that writes it first.
        last: The last step that reads or writes it; ``first <= last``.
    """

    size: int
    first: int
    last: int

    def meets(self, other: Buffer) -> bool:
        """Say whether there is a step during which both are needed."""
        return self.first <= other.last and other.first <= self.last


def _best_gap(size: int, taken: list[tuple[int, int]]) -> int:
    """Return the offset of the smallest gap between ``taken`` (begin, end) that holds ``size``."""
    best, best_gap, end = None, None, 0
    for begin, stop in sorted(taken):
        gap = begin - end
        if gap >= size and (best_gap is None or gap < best_gap):
            best, best_gap = end, gap
        end = max(end, stop)
    return end if best is None else best


def place(buffers: list[Buffer]) -> tuple[list[int], int]:
    """Choose an offset for each buffer.

    Args:
        buffers: In any order; the result depends on sizes, lifetimes and, for ties, the order.

    Returns:
        Offsets, bytes, multiples of ``ALIGNMENT``, in the order of ``buffers``, and the size of the
        arena. Buffers that meet do not overlap; the arena is at most the sum of the aligned sizes
        and at least what lives at once.
    """
    order = sorted(range(len(buffers)), key=lambda i: (-buffers[i].size, buffers[i].first, i))
    offsets: dict[int, int] = {}
    for i in order:
        taken = [
            (offset, offset + align_up(buffers[j].size))
            for j, offset in offsets.items()
            if buffers[i].meets(buffers[j])
        ]
        offsets[i] = _best_gap(align_up(buffers[i].size), taken)
    arena = max((offsets[i] + align_up(buffers[i].size) for i in order), default=0)
    return [offsets[i] for i in range(len(buffers))], arena
