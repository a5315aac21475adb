"""Mirror of passes/lowrank/search.py, with times that are counts of weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from tvmopt.passes.lowrank.factors import Shape, product
from tvmopt.passes.lowrank.problem import Problem
from tvmopt.passes.lowrank.search import Rule, choose, why_not

Make = Callable[..., Problem]


def _weights(shapes: Sequence[Shape]) -> float:
    return float(sum(math.prod(shape) for _, shape in shapes))


@pytest.fixture(scope="module")
def linear(make_problem: Make) -> Problem:
    return make_problem(0, outputs=24, inputs=32)


@pytest.fixture(scope="module")
def wide(make_problem: Make) -> Problem:
    return make_problem(1, outputs=16, kernel=(3, 3), inputs=12)


def test_the_least_rank_within_an_error_is_taken(linear: Problem) -> None:
    choice = choose(linear, "svd", Rule(by="error", amount=0.05), 768.0, _weights)
    assert choice.line.error(choice.rank) <= 0.05 < choice.line.error(choice.rank - 1)
    assert choice.cycles == choice.weights == choice.rank * (24 + 32)


def test_the_largest_rank_that_is_fast_enough_is_taken(linear: Problem) -> None:
    choice = choose(linear, "svd", Rule(by="speedup", amount=1.5), 24 * 32.0, _weights)
    # 768 / 1.5 = 512 weights are 9.1 of 56; only multiples of 8 are looked at.
    assert choice.rank == 8
    assert choose(linear, "svd", Rule(by="speedup", amount=20.0), 24 * 32.0, _weights) is None


def test_energy_and_share_choose_ranks(linear: Problem) -> None:
    choice = choose(linear, "svd", Rule(by="share", amount=0.25), 768.0, _weights)
    assert choice.rank == 6
    choice = choose(linear, "svd", Rule(by="energy", amount=0.9), 768.0, _weights)
    assert choice.rank == choice.line.rank_at(0.9)


def test_a_rank_is_raised_to_whole_registers_where_that_is_free(linear: Problem) -> None:
    def blocks(shapes: Sequence[Shape]) -> float:
        return float(-(-shapes[0][1][0] // 8))  # time goes by blocks of 8 outputs

    choice = choose(linear, "svd", Rule(by="share", amount=0.21), 9.0, blocks)
    assert choice.rank == 8  # 0.21 * 24 is 5; 16 would take twice the time


@pytest.mark.parametrize("method", ["spatial", "tucker"])
def test_each_method_keeps_the_error(wide: Problem, method: str) -> None:
    choice = choose(wide, method, Rule(by="error", amount=0.1), 1728.0, _weights)
    assert choice.line.method == method
    assert wide.error(product(choice.line.solve(choice.rank, 0))) <= 0.1 + 1e-12


def test_auto_takes_the_fastest_at_an_error(wide: Problem) -> None:
    rule = Rule(by="error", amount=0.1)
    best = choose(wide, "auto", rule, 1728.0, _weights)
    each = [choose(wide, method, rule, 1728.0, _weights) for method in ("svd", "spatial", "tucker")]
    assert best.cycles == min(one.cycles for one in each)


def test_auto_takes_the_least_error_at_a_time(wide: Problem) -> None:
    rule = Rule(by="speedup", amount=2.0)
    best = choose(wide, "auto", rule, 1728.0, _weights)
    each = [choose(wide, method, rule, 1728.0, _weights) for method in ("svd", "spatial", "tucker")]
    errors = [one.line.error(one.rank) for one in each]
    assert best.line.error(best.rank) == min(errors)
    assert all(one.cycles <= 1728.0 / 2 for one in each)


def test_tucker_has_both_ranks_from_energy_and_share(wide: Problem) -> None:
    choice = choose(wide, "tucker", Rule(by="share", amount=0.5), 1728.0, _weights)
    first, core, _ = (shape for _, shape in choice.line.shapes(choice.rank))
    assert (first[0], core[0]) == (6, 8)
    choice = choose(wide, "tucker", Rule(by="energy", amount=0.9), 1728.0, _weights)
    assert 0 < choice.line.shapes(choice.rank)[0][1][0] <= 12


def test_an_error_that_only_the_full_rank_keeps_gives_that(linear: Problem) -> None:
    choice = choose(linear, "svd", Rule(by="error", amount=1e-13), 768.0, _weights)
    assert choice.rank == 24
    assert np.isclose(choice.line.error(24), 0.0, atol=1e-13)


@pytest.mark.parametrize(
    ("method", "kernel", "reason"),
    [
        ("spatial", (1, 3), "its kernel is 1x3, and spatial parts one that is wider both ways"),
        ("tucker", (1, 1), "its kernel is 1x1, and tucker is for wider ones"),
        ("tucker", (1, 3), ""),
        ("auto", (1, 1), ""),
        ("svd", (1, 1), ""),
    ],
)
def test_methods_say_what_they_cannot_take(
    method: str, kernel: tuple[int, int], reason: str
) -> None:
    assert why_not(method, kernel) == reason
