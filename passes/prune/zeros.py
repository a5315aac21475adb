"""Say in what structure a weight's zeros are: the largest one that explains them. NumPy.

Structures, the first that holds is told::

    "whole outputs", "whole inputs"     every zero belongs to an output, or to an input channel,
                                        that is zero throughout
    "16x4", ...                         outputs x inputs of a block, counted from the first output
                                        and from the first input of each run of taps
    "2:4", ...                          at most N of M neighbouring inputs of a run are not zero
    "unstructured"                      none of these: zeros are anywhere

A block explains the zeros if halves of it are not zero alone: where halves were zero by chance, a
share of them would be whose other half is not, and there must be ten times fewer. So a few weights
that were rounded to zero do not matter, and nearly empty weights do not look like blocks.

Source: none; derived here.
"""

from __future__ import annotations

import numpy as np

LEAST = 0.01  # a smaller share of zeros is what training or rounding leaves
RARER = 10.0  # than by chance
# Largest first; of equal ones that with more outputs, which is the faster.
BLOCKS = (
    *((32, 8), (32, 4), (16, 8), (32, 2), (16, 4), (8, 8), (32, 1), (16, 2), (8, 4), (4, 8)),
    *((16, 1), (8, 2), (4, 4), (2, 8), (8, 1), (4, 2), (2, 4), (1, 8), (4, 1), (2, 2), (1, 4)),
    *((2, 1), (1, 2)),
)
N_OF_M = ((1, 4), (2, 4), (4, 8))


def zero_structure(rows: np.ndarray, run: int) -> str | None:
    """Return the structure of a weight's zeros, or None where there are hardly any.

    Args:
        rows: (outputs, k), k in the order of an OHWI weight.
        run: Inputs of one run of taps: of a convolution's tap its input channels, of a matrix all;
            k is a multiple of it.
    """
    share = float(np.mean(rows == 0)) if rows.size else 0.0
    if share < LEAST:
        return None
    zero = (rows == 0).reshape(len(rows), -1, run)
    if share == 1.0 or _whole(zero, (1, 2)):
        return "whole outputs"
    if _whole(zero, (0, 1)):
        return "whole inputs"
    for outputs, inputs in BLOCKS:
        if _explains(zero, outputs, inputs):
            return f"{outputs}x{inputs}"
    for kept, of in N_OF_M:
        if _is_n_of_m(zero, kept, of, share):
            return f"{kept}:{of}"
    return "unstructured"


def _whole(zero: np.ndarray, axes: tuple[int, int]) -> bool:
    """Say whether all zeros are in slices, along the axis that is left, of nothing else."""
    alone = np.where(zero.all(axis=axes, keepdims=True), False, zero)
    return not alone.any()


def _explains(zero: np.ndarray, outputs: int, inputs: int) -> bool:
    """Say whether blocks are zero as a whole, or not at all."""
    if outputs > len(zero) or inputs > zero.shape[2]:
        return False
    whole = _blocks(zero, outputs, inputs)
    if not whole.any():
        return False
    halves = [(outputs // 2, inputs)] if outputs > 1 else []
    halves += [(outputs, inputs // 2)] if inputs > 1 else []
    return all(_rarely_alone(zero, whole, half, (outputs, inputs)) for half in halves)


def _rarely_alone(
    zero: np.ndarray, whole: np.ndarray, half: tuple[int, int], block: tuple[int, int]
) -> bool:
    """Say whether halves of blocks that are zero nearly always have a zero partner."""
    small = _blocks(zero, *half)
    grown = whole.repeat(block[0] // half[0], axis=0).repeat(block[1] // half[1], axis=2)
    alone = small & ~grown[: small.shape[0], :, : small.shape[2]]
    share = float(small.mean())
    return float(alone.sum()) <= small.sum() * (1.0 - share) / RARER


def _blocks(zero: np.ndarray, outputs: int, inputs: int) -> np.ndarray:
    """Return which blocks are zero throughout, (panels, taps, groups); the last may be cut off."""
    high, _, wide = zero.shape
    panels = np.logical_and.reduceat(zero, np.arange(0, high, outputs), axis=0)
    return np.logical_and.reduceat(panels, np.arange(0, wide, inputs), axis=2)


def _is_n_of_m(zero: np.ndarray, kept: int, of: int, share: float) -> bool:
    """Say whether no group has more that is not zero, at a share of zeros that calls for it."""
    if zero.shape[2] % of or abs(share - (1 - kept / of)) > 0.5 * kept / of:
        return False
    groups = zero.reshape(*zero.shape[:2], -1, of)
    return bool((of - groups.sum(axis=3) <= kept).all())
