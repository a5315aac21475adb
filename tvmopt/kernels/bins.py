"""Which products of bytes may be added up in 16 bits: decided by the weights, at compile time.

PMADDUBSW adds two products of an unsigned activation and a signed weight in 16 bits. The sum of any
number of them is exact for every input if, with the weights that meet in one 16-bit lane,

    255 * sum of the positive ones <= 2^15 - 1   and   255 * sum of the negative ones >= -2^15

Weights of 7 bits may break that where two steps are added up, but trained ones are seldom large
together. The few that are in excess are taken out of their steps and come in steps of their own,
which read the same activations again, in any order: the order of a sum is free.

Source: none; derived here. That weights of fewer bits may be added up in 16 bits is old (B. Jacob
and P. Warden, gemmlowp, 2017); that it depends on the weights and not on their width is used here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LIMIT = (2**15 - 1) // 255  # the most that weights of one sign may add up to in a lane
OPEN = 32  # bins that are filled at once


@dataclass(frozen=True, slots=True, eq=False)
class Bins:
    """Steps that are added up together, ``depth`` of them at most.

    Attributes:
        weights: (panels, bins, depth, width, 4), int8; zeros where a bin has fewer steps.
        steps: (panels, bins, depth), int32: whose activations each of them reads.
    """

    weights: np.ndarray
    steps: np.ndarray


def take_excess(weights: np.ndarray, depth: int) -> tuple[np.ndarray, Bins]:
    """Return weights of which every ``depth`` successive steps keep to the rule, and the rest.

    Args:
        weights: (panels, steps, width, 4), int8, at most 64 in magnitude; steps a multiple of
            ``depth``.
        depth: Steps that are added up.

    Returns:
        The weights left, as given, and what was taken: for each panel and step, both add up to what
        was given.
    """
    panels, steps, width, _ = weights.shape
    # (..., a lane's pairs): the lane is the weights' own pair of neighbours, in every step.
    left = weights.reshape(panels, steps // depth, depth, width, 2, 2).transpose(0, 1, 3, 4, 2, 5)
    left = np.ascontiguousarray(left).reshape(panels, steps // depth, width, 2, depth * 2)
    taken = np.zeros_like(left)
    for sign in (1, -1):
        _take(left, taken, sign)
    return _steps(left, depth), _bins(_steps(taken, depth), depth)


def _take(left: np.ndarray, taken: np.ndarray, sign: int) -> None:
    """Move the largest weights of one sign until what is left of it keeps to the rule."""
    while True:
        sized = np.maximum(left.astype(np.int16) * sign, 0)
        bad = np.nonzero(sized.sum(-1) > LIMIT)
        if not len(bad[0]):
            return
        place = (*bad, sized[bad].argmax(-1))
        taken[place], left[place] = left[place], 0


def _steps(lanes: np.ndarray, depth: int) -> np.ndarray:
    """Return lanes (panels, chains, width, 2, depth * 2) as steps (panels, steps, width, 4)."""
    panels, chains, width = lanes.shape[:3]
    cut = lanes.reshape(panels, chains, width, 2, depth, 2).transpose(0, 1, 4, 2, 3, 5)
    return np.ascontiguousarray(cut).reshape(panels, chains * depth, width, 4)


def _bins(weights: np.ndarray, depth: int) -> Bins:
    """Return the steps that have weights at all, in bins."""
    panels = len(weights)
    also: np.ndarray = np.any(weights, axis=(2, 3))
    most = int(also.sum(1).max(initial=0))
    found = np.zeros((panels, most, *weights.shape[2:]), np.int8)
    numbers = np.zeros((panels, most), np.int32)
    for panel, chosen in enumerate(also):
        steps = np.flatnonzero(chosen)
        found[panel, : len(steps)], numbers[panel, : len(steps)] = weights[panel, steps], steps
    return fill(found, numbers, depth)


def fill(weights: np.ndarray, numbers: np.ndarray, depth: int) -> Bins:
    """Put steps into bins of at most ``depth``: each into the first that is open and has room.

    Args:
        weights: (panels, entries, width, 4), int8, none of which breaks the rule alone. Entries of
            zeros come into no bin.
        numbers: (panels, entries): the step of each, or whatever else tells it.
        depth: Steps of a bin at most.
    """
    also: np.ndarray = np.any(weights, axis=(2, 3))
    signs, counts = _signs(weights), also.sum(1)  # signs: (panels, entries, lanes)
    order = _order(signs, counts, depth)
    place = _places(signs, order, counts, depth)
    bins = place.max(initial=-1) // depth + 1
    held = np.zeros((len(weights), bins, depth, *weights.shape[2:]), np.int8)
    steps = np.zeros(held.shape[:3], np.int32)
    panel, entry = np.nonzero(place >= 0)
    rows = panel, place[panel, entry] // depth, place[panel, entry] % depth
    held[rows], steps[rows] = weights[panel, entry], numbers[panel, entry]
    return Bins(held, steps)


def _places(signs: np.ndarray, order: np.ndarray, counts: np.ndarray, depth: int) -> np.ndarray:
    """Return for each entry its bin * depth + its place in it, (panels, entries), or -1."""
    panels, entries, lanes = signs.shape
    sums = np.zeros((panels, OPEN, lanes), np.int16)
    held = np.full((panels, OPEN), depth)  # full: no bin is open at first
    bins = np.full((panels, OPEN), -1)
    made = np.zeros(panels, int)
    place = np.full((panels, entries), -1)
    for i in range(counts.max(initial=0)):
        rows = np.flatnonzero(i < counts)
        entry = order[rows, i]
        more = signs[rows, entry]
        fits = (held[rows] < depth) & (sums[rows] + more[:, None] <= LIMIT).all(-1)
        slot = np.where(fits.any(1), fits.argmax(1), held[rows].argmax(1))  # or close the fullest
        new = ~fits[np.arange(len(rows)), slot]
        opened = rows[new], slot[new]
        sums[opened], held[opened], bins[opened] = 0, 0, made[rows[new]]
        made[rows[new]] += 1
        place[rows, entry] = bins[rows, slot] * depth + held[rows, slot]
        sums[rows, slot] += more
        held[rows, slot] += 1
    return place


def _order(signs: np.ndarray, counts: np.ndarray, depth: int) -> np.ndarray:
    """Return the entries of each panel, each large one followed by ``depth - 1`` small ones."""
    ranked = np.argsort(-signs.max(-1, initial=0), axis=1, kind="stable")
    order = ranked.copy()
    for panel, count in enumerate(counts):
        positions = np.arange(count)
        large = positions % depth == 0
        number = int(large.sum())
        order[panel, positions[large]] = ranked[panel, :number]
        order[panel, positions[~large]] = ranked[panel, number:count][::-1]
    return order


def _signs(weights: np.ndarray) -> np.ndarray:
    """Return what the weights of each sign add up to in each lane: (..., 2 * lanes), int16."""
    *outer, width, _ = weights.shape
    pairs = weights.reshape(*outer, 2 * width, 2).astype(np.int16)
    return np.concatenate([np.maximum(pairs, 0).sum(-1), np.maximum(-pairs, 0).sum(-1)], -1).astype(
        np.int16
    )
