"""Share a sparsity among layers. NumPy, no graph.

For each layer and structure a *curve* says what the loss of its n least blocks costs. Then

* ``spread_threshold``: the blocks that cost least go, wherever they are, until the share of weights
  asked for is gone. With costs counted in what each layer is worth this is one global threshold
  over normalized importance; with costs scaled to what each layer was measured to do to the net's
  outputs it is an allocation by sensitivity. Where costs of layers add up, no other shares of as
  many weights cost less.
* ``spend_on_time``: of a list of choices for each layer, each of a time and a cost, those of least
  time are taken whose cost is within a budget, by a price of cost (a Lagrangian multiplier), then
  greedily with what is left of the budget.

Sources: T. Gale, E. Elsen and S. Hooker, "The state of sparsity in deep neural networks", arXiv
1902.09574 (2019), for global thresholds beside uniform ones; E. Frantar and D. Alistarh, "SPDY:
accurate pruning with speedup guarantees", ICML 2022, for choosing sparsities by time under a budget
of added-up layer errors; the multiplier in the place of dynamic programming is H. Everett,
"Generalized Lagrange multiplier method", Operations Research 11 (1963).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

MOST = 0.95  # share of a layer's blocks that may go: what is left must carry what comes after
_HALVINGS = 60


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Curve:
    """What a layer loses with its least blocks.

    Attributes:
        cost: (blocks,) ascending, at least 0: what the loss of each block costs after those before.
        block: Weights of a block, at least 1; those at the borders may have fewer.
    """

    cost: np.ndarray
    block: int

    def lost(self, share: float) -> float:
        """Return what the loss of a share of the blocks costs, in [0, 1]."""
        return float(np.sum(self.cost[: round(share * len(self.cost))]))


def spread_threshold(curves: Mapping[str, Curve], sparsity: float) -> dict[str, float]:
    """Return the share of the blocks that goes, for each layer.

    No layer loses more than ``MOST``, and none all of its blocks.

    Args:
        curves: Of each layer, by name; at least one.
        sparsity: Share of all weights that goes, in (0, 1).

    Returns:
        Shares whose mean over weights is ``sparsity``, off by less than one block, where ``MOST``
        allows it; else all are ``MOST``.
    """
    names = list(curves)
    blocks = np.array([len(curves[name].cost) for name in names])
    sizes = np.array([curves[name].block for name in names])
    allowed = np.minimum(np.floor(MOST * blocks).astype(int), blocks - 1)
    price = np.concatenate(
        [curves[n].cost[:k] / curves[n].block for n, k in zip(names, allowed, strict=True)]
    )
    owner = np.repeat(np.arange(len(names)), allowed)
    order = np.argsort(price, kind="stable")
    gone = np.cumsum(sizes[owner[order]])
    wanted = sparsity * float(np.sum(blocks * sizes))
    count = int(np.searchsorted(gone, wanted, side="right"))
    # One more if that is nearer.
    if count < len(gone) and gone[count] - wanted < wanted - (gone[count - 1] if count else 0):
        count += 1
    lost = np.bincount(owner[order[:count]], minlength=len(names))
    return {name: int(n) / int(b) for name, n, b in zip(names, lost, blocks, strict=True)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What could be done with a layer.

    Attributes:
        structure: Of its blocks; empty for a dense layer.
        share: Of its blocks that goes, in [0, 1).
        time: Predicted, at least 0.
        cost: What it loses, at least 0.
    """

    structure: str
    share: float
    time: float
    cost: float


def spend_on_time(
    choices: Mapping[str, Sequence[Choice]], start: Mapping[str, Choice]
) -> dict[str, Choice]:
    """Return the choices of least time that cost no more, all together, than given ones.

    Args:
        choices: Of each layer, by name; at least one each.
        start: One of each layer: what these cost together is the budget.

    Returns:
        A choice for each layer, that cost no more together and take no longer than ``start``.
    """
    budget = sum(one.cost for one in start.values()) * (1.0 + 1e-12)
    low, high = 0.0, 1.0
    while _cost(_at_price(choices, high)) > budget and high < 1e30:
        low, high = high, high * 16.0
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        if _cost(_at_price(choices, middle)) > budget:
            low = middle
        else:
            high = middle
    found = _at_price(choices, high)
    if _cost(found) > budget or _time(found) > _time(start):
        found = dict(start)
    return _spend_rest(choices, found, budget)


def _at_price(choices: Mapping[str, Sequence[Choice]], price: float) -> dict[str, Choice]:
    return {
        name: min(some, key=lambda one: (one.time + price * one.cost, one.cost))
        for name, some in choices.items()
    }


def _spend_rest(
    choices: Mapping[str, Sequence[Choice]], found: dict[str, Choice], budget: float
) -> dict[str, Choice]:
    """Take, as long as one fits, the step that saves most time for what it costs."""
    result = dict(found)
    while True:
        left = budget - _cost(result)
        best: tuple[float, str, Choice] | None = None
        for name, some in choices.items():
            for one in some:
                saved, cost = result[name].time - one.time, one.cost - result[name].cost
                if saved <= 0.0 or cost > left:
                    continue
                gain = saved / cost if cost > 0.0 else np.inf
                if best is None or gain > best[0]:
                    best = gain, name, one
        if best is None:
            return result
        result[best[1]] = best[2]


def _cost(chosen: Mapping[str, Choice]) -> float:
    return sum(one.cost for one in chosen.values())


def _time(chosen: Mapping[str, Choice]) -> float:
    return sum(one.time for one in chosen.values())
