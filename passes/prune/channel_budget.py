"""Choose how many channels each group keeps.

A group can go down a ladder of counts; each step loses something and is predicted to save time.

* ``"uniform"``: every group as near to the same share as its counts allow.
* ``"global"``: always the step that loses the least for each channel that goes, until so large a
  share of all channels is gone.
* ``"time"``: always the step that loses the least for each cycle that it saves, until the net is
  predicted to take so much less time.

Source: none; greedy choice by the ratio of loss to gain, as for a knapsack.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Allocation = Literal["uniform", "global", "time"]
ALLOCATIONS: tuple[Allocation, ...] = get_args(Allocation)

_CORRECTIONS = 6  # how often a choice is predicted as a whole


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What a group may keep.

    Attributes:
        size: How many units it has.
        width: How many channels one of them stands for.
        counts: How many it may keep instead, descending.
        losses: What is lost by each of them.
        gains: The share of the net's time that each is predicted to save while the others stay.
    """

    size: int
    width: int
    counts: tuple[int, ...]
    losses: tuple[float, ...]
    gains: tuple[float, ...]


def nearest_count(choice: Choice, ratio: float) -> int:
    """Return the count nearest to what is left without a share of the channels, rather more."""
    goal = choice.size * (1.0 - ratio)
    return min((choice.size, *choice.counts), key=lambda count: (abs(count - goal), -count))


def share_out(
    choices: Sequence[Choice],
    allocation: Allocation,
    ratio: float,
    saved: Callable[[Sequence[int]], float],
) -> list[int]:
    """Return how many units each group keeps.

    Args:
        choices: What each may keep.
        allocation: How the share is spread.
        ratio: Of the channels, or of the net's time for ``"time"``, in (0, 1).
        saved: Returns the share of the net's time that counts save together.
    """
    if allocation == "uniform":
        return [nearest_count(choice, ratio) for choice in choices]
    if allocation == "global":
        goal = ratio * sum(choice.size * choice.width for choice in choices)
        return _greedy(choices, goal, _channels)
    goal, most = ratio, sum(max(choice.gains, default=0.0) for choice in choices)
    for _ in range(_CORRECTIONS):
        # Groups that share layers save less together than one by one.
        counts = _greedy(choices, goal, _time)
        reached = saved(counts)
        if reached >= ratio or goal >= most or reached <= 0.0:
            break
        goal = min(most, goal * max(1.02, ratio / reached))
    return counts


Worth = Callable[[Choice, int], float]
"""Returns what a group brings at one of its counts, by the count's number."""


def _channels(choice: Choice, step: int) -> float:
    return float(choice.width * (choice.size - choice.counts[step]))


def _time(choice: Choice, step: int) -> float:
    return choice.gains[step]


def _greedy(choices: Sequence[Choice], goal: float, worth: Worth) -> list[int]:
    """Go down where it loses the least for its worth until the goal is reached."""
    at: dict[int, int] = {}
    while sum(worth(choices[n], step) for n, step in at.items()) < goal:
        best = _cheapest(choices, at, worth)
        if best is None:
            break
        at[best[0]] = best[1]
    return [choice.counts[at[n]] if n in at else choice.size for n, choice in enumerate(choices)]


def _cheapest(
    choices: Sequence[Choice], at: Mapping[int, int], worth: Worth
) -> tuple[int, int] | None:
    """Return the group and the count, further down, of least loss for its worth; None if none."""
    best: tuple[float, int, int] | None = None
    for n, choice in enumerate(choices):
        here = at.get(n, -1)
        loss, value = (choice.losses[here], worth(choice, here)) if here >= 0 else (0.0, 0.0)
        for step in range(here + 1, len(choice.counts)):
            more = worth(choice, step) - value
            if more <= 0.0:
                continue
            price = (choice.losses[step] - loss) / more
            if best is None or price < best[0]:
                best = price, n, step
    return None if best is None else best[1:]
