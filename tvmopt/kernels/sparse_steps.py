"""Block-sparse weights as lists of steps: what is left of a panel, and where its inputs lie.

A panel is the columns (outputs) of one register tile, a step the values of k that one instruction
takes: 1 of float32, 4 of int8. A block is a panel by a step: ``columns x group`` weights. Blocks of
zeros are left out; each other one has its place in the input beside it, as an offset from the first
tap of the pixel.

Source: S. Gray, A. Radford and D. Kingma, "GPU kernels for block-sparse weights" (2017), for blocks
with an index each; offsets into the image in place of (row, column) are derived here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

UINT16_HIGH = 2**16 - 1


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SparseSteps:
    """The blocks of a weight that are not zero, panel after panel.

    Attributes:
        weights: (steps, columns, group), in the type they came in.
        offsets: (steps,), uint16 where that holds them, else int32: elements of the input from the
            pixel's first tap.
        starts: (panels + 1,), int32: the first step of each panel, and their number.
    """

    weights: np.ndarray
    offsets: np.ndarray
    starts: np.ndarray

    @property
    def count(self) -> int:
        """Blocks in all."""
        return len(self.offsets)


def sparse_steps(dense: np.ndarray, runs: np.ndarray) -> SparseSteps:
    """Return the blocks of a dense packing that are not zero.

    A weight without any keeps one block of zeros, so that no tensor is empty.

    Args:
        dense: (panels, lines, steps, columns, group).
        runs: (lines,), the offset of each line's first tap from that of the pixel.
    """
    group = dense.shape[-1]
    places = runs[:, None] + np.arange(dense.shape[2]) * group
    kept = np.asarray(dense.any((3, 4)))
    if not kept.any():
        kept[0, 0, 0] = True
    panel, line, step = np.nonzero(kept)
    offsets = places[line, step]
    small = offsets.max() <= UINT16_HIGH
    starts = np.searchsorted(panel, np.arange(len(dense) + 1))
    return SparseSteps(
        weights=np.ascontiguousarray(dense[panel, line, step]),
        offsets=offsets.astype(np.uint16 if small else np.int32),
        starts=starts.astype(np.int32),
    )


def density(dense: np.ndarray) -> float:
    """Return the share of blocks of a dense packing that are not zero."""
    return float(dense.any((3, 4)).mean())
