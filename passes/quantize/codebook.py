"""Levels that are not uniform: tables of weights, and the nearest entry of each weight.

``kmeans`` fits the table to the weights. ``powers_of_two`` has 0 and plus and minus 2^e for
consecutive e, so that a product is a shift.

Sources: S. Han et al., "Deep compression", ICLR 2016 (arXiv:1510.00149), section 3, for sharing
weights by k-means and its linear start; S. Lloyd, "Least squares quantization in PCM", IEEE
Transactions on Information Theory 28, 1982; D. Miyashita et al., "Convolutional neural networks
using logarithmic data representation", arXiv:1603.01025, section 3, for powers of two.
"""

from __future__ import annotations

import numpy as np

_ROUNDS = 200  # The squared error falls with each; it has settled long before.


def nearest(weight: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Return the index of the nearest entry for each weight, uint8, halves to the lesser.

    Args:
        weight: Finite, any shape.
        table: (c,) ascending, c at most 256.
    """
    middles = (table[1:].astype(np.float64) + table[:-1]) / 2.0
    return np.searchsorted(middles, weight, side="left").astype(np.uint8)


def kmeans(weight: np.ndarray, count: int) -> np.ndarray:
    """Return the table of ``count`` values whose nearest entries have little squared error.

    Lloyd's iteration from two starts, evenly over the range and evenly over the ranks, of which the
    better end is taken: no chance is involved. In one dimension a cluster is a run of the sorted
    weights, so that a round costs ``count`` binary searches.

    Args:
        weight: Finite, any shape.
        count: From 2 to 256.

    Returns:
        (c,) float32, ascending, c at most ``count``: fewer where there are fewer distinct weights.
    """
    ordered = np.sort(weight, axis=None).astype(np.float64)
    distinct = np.unique(ordered)
    if len(distinct) <= count:
        return distinct.astype(np.float32)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    over_range = np.linspace(ordered[0], ordered[-1], count)
    over_ranks = ordered[((np.arange(count) + 0.5) / count * len(ordered)).astype(int)]
    tables = [_lloyd(ordered, sums, start) for start in (over_range, np.unique(over_ranks))]
    return min(tables, key=lambda table: _squares(ordered, table)).astype(np.float32)


def powers_of_two(weight: np.ndarray, bits: int) -> np.ndarray:
    """Return 0 and plus and minus 2^e for as many e as ``bits`` can number.

    Args:
        weight: Finite, any shape.
        bits: From 2 to 8: 2^(bits - 1) - 1 exponents, the largest the one of least squared error
            of the two about the greatest weight.

    Returns:
        (2^bits - 1,) float32, ascending.
    """
    greatest = float(np.abs(weight).max()) or 1.0
    top = int(np.ceil(np.log2(greatest)))
    # The lesser first: where both serve the greatest weight alike, small ones gain from it.
    tables = [_powers(exponent, bits) for exponent in (top - 1, top)]
    return min(tables, key=lambda table: _squares(weight, table))


def _powers(top: int, bits: int) -> np.ndarray:
    magnitudes = np.ldexp(1.0, np.arange(top - 2 ** (bits - 1) + 2, top + 1))
    return np.concatenate([-magnitudes[::-1], [0.0], magnitudes]).astype(np.float32)


def _lloyd(ordered: np.ndarray, sums: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Move each entry to the mean of what is nearest to it until nothing changes."""
    before = None
    for _ in range(_ROUNDS):
        middles = (table[1:] + table[:-1]) / 2.0
        ends = np.concatenate([[0], np.searchsorted(ordered, middles), [len(ordered)]])
        if before is not None and np.array_equal(ends, before):
            break
        sizes = np.diff(ends)
        # An entry without weights stays where it is.
        table = np.where(sizes > 0, np.diff(sums[ends]) / np.maximum(sizes, 1), table)
        before = ends
    return np.sort(table)


def _squares(weight: np.ndarray, table: np.ndarray) -> float:
    return float(np.square(table[nearest(weight, table)] - weight).sum(dtype=np.float64))
