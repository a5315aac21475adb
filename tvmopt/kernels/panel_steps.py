"""The lists of a block-sparse weight in the order in which kernels over panels take them.

Panels come in an order in which any run of them holds about its share of all steps: threads take
runs of equal length, and so of equal work. Where sums are kept in 16 bits over a few steps, the
steps of a panel come in an order that allows it.

Source: none; derived here. The lists are those of sparse_steps.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tvmopt.kernels import bins
from tvmopt.kernels.sparse_steps import UINT16_HIGH


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PanelSteps:
    """The blocks of a weight that are not zero, panel after panel.

    Attributes:
        weights: (steps, columns, group), in the type they came in.
        offsets: (steps,), uint16 where that holds them, else int32: elements of the input from the
            pixel's first tap.
        panels: (panels + 1, 2), int32: the first step of each and its number in the dense packing,
            and last the number of steps and 0.
    """

    weights: np.ndarray
    offsets: np.ndarray
    panels: np.ndarray

    @property
    def count(self) -> int:
        """Blocks in all."""
        return len(self.offsets)


def panel_steps(
    dense: np.ndarray, runs: np.ndarray, depth: int = 1, multiple: int = 1
) -> PanelSteps:
    """Return the blocks of a dense packing that are not zero.

    A weight without any keeps ``depth`` blocks of zeros, so that no tensor is empty.

    Args:
        dense: (panels, lines, steps, columns, group).
        runs: (lines,), the offset of each line's first tap from that of the pixel.
        depth: Steps whose sums are added up in 16 bits (bins.py). Where it is above 1, dense holds
            7-bit integers in groups of 4; each panel then has a multiple of so many steps, some of
            them zeros.
        multiple: Steps that a kernel takes at once: zeros fill each panel up to a multiple of it.
    """
    group = dense.shape[-1]
    kept = np.asarray(dense.any((3, 4)))
    order = balanced(kept.sum((1, 2)))
    places = (runs[:, None] + np.arange(dense.shape[2]) * group).astype(np.int32)
    lists = [(dense[panel][kept[panel]], places[kept[panel]]) for panel in order]
    if not kept.any():
        lists[0] = np.zeros((depth, *dense.shape[3:]), dense.dtype), np.zeros(depth, np.int32)
    elif depth > 1:
        lists = _chains(lists, depth)
    if multiple > 1:
        lists = [_filled(weights, at, -len(at) % multiple) for weights, at in lists]
    offsets = np.concatenate([places for _, places in lists])
    starts = np.cumsum([0, *(len(places) for _, places in lists)])
    return PanelSteps(
        weights=np.concatenate([weights for weights, _ in lists]),
        offsets=offsets.astype(np.uint16 if offsets.max() <= UINT16_HIGH else np.int32),
        panels=np.stack([starts, [*order, 0]], axis=1).astype(np.int32),
    )


def _filled(weights: np.ndarray, places: np.ndarray, more: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a panel's steps with so many of zeros behind them."""
    zeros = np.zeros((more, *weights.shape[1:]), weights.dtype)
    return np.concatenate([weights, zeros]), np.concatenate([places, np.zeros(more, np.int32)])


def balanced(counts: np.ndarray) -> list[int]:
    """Return an order of panels in which the steps of the first ones grow as evenly as they can.

    Args:
        counts: (panels,), the steps of each.
    """
    left, mean, held = list(range(len(counts))), counts.mean(), 0
    order: list[int] = []
    while left:
        wanted = mean * (len(order) + 1) - held
        best = min(left, key=lambda panel: abs(counts[panel] - wanted))
        left.remove(best)
        order.append(best)
        held += counts[best]
    return order


def _chains(
    lists: list[tuple[np.ndarray, np.ndarray]], depth: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the steps of each panel in such an order that each ``depth`` of them fit 16 bits."""
    most = max(len(places) for _, places in lists)
    weights = np.zeros((len(lists), most, *lists[0][0].shape[1:]), np.int8)
    places = np.zeros((len(lists), most), np.int32)
    for i, (own, at) in enumerate(lists):
        weights[i, : len(at)], places[i, : len(at)] = own, at
    found = bins.fill(weights, places, depth)
    used = np.asarray(found.weights.any((2, 3, 4)))  # (panels, bins)
    return [
        (own[kept].reshape(-1, *weights.shape[2:]), at[kept].reshape(-1))
        for own, at, kept in zip(found.weights, found.steps, used, strict=True)
    ]
