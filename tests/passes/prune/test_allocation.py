"""Mirror of passes/prune/allocation.py: shares of layers, as lists of costs see them."""

from __future__ import annotations

import numpy as np
import pytest

from tvmopt.passes.prune.allocation import (
    MOST,
    Choice,
    Curve,
    spend_on_time,
    spread_threshold,
)


def _curves(seed: int) -> dict[str, Curve]:
    rng = np.random.default_rng(seed)
    return {
        f"layer{i}": Curve(
            cost=np.sort(rng.random(int(rng.integers(30, 300))) ** 3 * 10.0**i),
            block=int(rng.choice([1, 4, 16])),
        )
        for i in range(5)
    }


def _mean(curves: dict[str, Curve], shares: dict[str, float]) -> float:
    sizes = {name: len(curve.cost) * curve.block for name, curve in curves.items()}
    return sum(shares[name] * sizes[name] for name in curves) / sum(sizes.values())


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.7, 0.9])
def test_the_mean_over_weights_is_what_was_asked_for(seed: int, sparsity: float) -> None:
    curves = _curves(seed)
    shares = spread_threshold(curves, sparsity)
    weights = sum(len(curve.cost) * curve.block for curve in curves.values())
    largest = max(curve.block for curve in curves.values())
    # The nearest number of whole blocks: off by less than one.
    assert abs(_mean(curves, shares) - sparsity) < largest / weights
    for name, share in shares.items():
        assert share <= MOST
        assert share * len(curves[name].cost) == pytest.approx(
            round(share * len(curves[name].cost))
        )


def test_blocks_that_cost_least_go_first() -> None:
    curves = {
        "cheap": Curve(cost=np.linspace(1.0, 2.0, 100), block=4),
        "dear": Curve(cost=np.linspace(10.0, 20.0, 100), block=4),
    }
    assert spread_threshold(curves, 0.25) == {"cheap": 0.5, "dear": 0.0}
    # No layer is emptied: the other one takes over.
    assert spread_threshold(curves, 0.5) == {"cheap": MOST, "dear": pytest.approx(0.05)}


def test_a_block_of_more_weights_may_cost_more() -> None:
    curves = {
        "small": Curve(cost=np.full(64, 1.0), block=1),
        "large": Curve(cost=np.full(4, 15.0), block=16),
    }
    # 15 for 16 weights is less than 1 a weight.
    assert spread_threshold(curves, 0.25) == {"small": 0.0, "large": 0.5}


def test_no_other_shares_of_as_many_weights_cost_less() -> None:
    curves = {name: Curve(cost=c.cost, block=1) for name, c in _curves(3).items()}
    shares = spread_threshold(curves, 0.6)
    cost = sum(curves[name].lost(share) for name, share in shares.items())
    rng = np.random.default_rng(0)
    names = list(curves)
    for _ in range(200):
        one, other = rng.choice(names, 2, replace=False)
        count = int(rng.integers(1, 10))
        moved = dict(shares)
        moved[one] += count / len(curves[one].cost)
        moved[other] -= count / len(curves[other].cost)
        if moved[one] <= MOST and moved[other] >= 0.0:
            changed = sum(curves[name].lost(share) for name, share in moved.items())
            assert changed >= cost - 1e-9 * cost


def _choices(seed: int) -> tuple[dict[str, list[Choice]], dict[str, Choice]]:
    rng = np.random.default_rng(seed)
    choices, start = {}, {}
    for i in range(8):
        dense = float(rng.integers(10, 1000))
        own = [Choice(structure="", share=0.0, time=dense, cost=0.0)]
        for share in (0.3, 0.5, 0.7, 0.9):
            cost = float(rng.random()) * share**2 / (1 - share)
            time = dense * (1 - share) * float(0.5 + rng.random())
            own.append(Choice(structure="4x1", share=share, time=time, cost=cost))
        choices[f"layer{i}"], start[f"layer{i}"] = own, own[2]
    return choices, start


@pytest.mark.parametrize("seed", range(20))
def test_time_is_never_above_uniform_shares_at_no_more_cost(seed: int) -> None:
    choices, start = _choices(seed)
    found = spend_on_time(choices, start)
    for name, one in found.items():
        assert one in choices[name]
    cost = [sum(one.cost for one in some.values()) for some in (found, start)]
    time = [sum(one.time for one in some.values()) for some in (found, start)]
    assert cost[0] <= cost[1] * (1 + 1e-9)
    assert time[0] <= time[1]
    # Here some layers save much for little and others little for much, so there is something to
    # gain in each of the cases.
    assert time[0] < 0.95 * time[1]


def test_what_costs_nothing_is_taken() -> None:
    choices = {
        "one": [
            Choice(structure="", share=0.0, time=10.0, cost=0.0),
            Choice(structure="1x1", share=0.5, time=4.0, cost=0.0),
        ]
    }
    assert spend_on_time(choices, {"one": choices["one"][0]})["one"].time == 4.0
