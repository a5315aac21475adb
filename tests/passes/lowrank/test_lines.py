"""Mirror of truncated_svd.py, separate_spatial.py and tucker.py: factors of a known problem."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from tvmopt.passes.lowrank.factors import product
from tvmopt.passes.lowrank.fit import Line
from tvmopt.passes.lowrank.problem import Problem
from tvmopt.passes.lowrank.separate_spatial import SpatialLine
from tvmopt.passes.lowrank.truncated_svd import SvdLine
from tvmopt.passes.lowrank.tucker import Channels, TuckerLine

Make = Callable[..., Problem]
KERNEL = (3, 2)


def _tucker(problem: Problem, inner: int = 4) -> TuckerLine:
    return TuckerLine(problem, Channels(problem), inner)


LINES: dict[str, Callable[[Problem], Line]] = {
    "svd": SvdLine,
    "spatial": SpatialLine,
    "tucker": _tucker,
}


@pytest.fixture(params=LINES)
def make_line(request: pytest.FixtureRequest) -> Callable[[Problem], Line]:
    return LINES[request.param]


@pytest.mark.parametrize("plain", [True, False])
def test_factors_of_full_rank_are_the_layer(
    make_line: Callable[[Problem], Line], make_problem: Make, plain: bool
) -> None:
    problem = make_problem(0, kernel=KERNEL, inputs=4, plain=plain)
    line = make_line(problem)
    weight = product(line.solve(line.most, 1))
    # float64 rounding, 1e-16, by the condition of H, about 1e5, and of systems made of it.
    assert np.allclose(weight, problem.wanted, atol=1e-8)


@pytest.mark.parametrize("plain", [True, False])
def test_errors_are_those_of_the_product(
    make_line: Callable[[Problem], Line], make_problem: Make, plain: bool
) -> None:
    problem = make_problem(1, kernel=KERNEL, inputs=4, plain=plain)
    line = make_line(problem)
    for rank in range(1, line.most + 1):
        error = problem.error(product(line.solve(rank, 0)))
        assert line.error(rank) == pytest.approx(error, abs=1e-10)


def test_more_sweeps_never_lose(make_line: Callable[[Problem], Line], make_problem: Make) -> None:
    problem = make_problem(2, kernel=KERNEL, inputs=6)
    line = make_line(problem)
    rank = 2

    def objective(sweeps: int) -> float:
        change = product(line.solve(rank, sweeps)) - problem.wanted
        return float(np.sum((change @ problem.metric) * change))

    values = [objective(sweeps) for sweeps in range(5)]
    # Each sweep is a descent; 1e-9 of the first is rounding.
    assert all(b <= a + 1e-9 * values[0] for a, b in itertools.pairwise(values))
    if line.method != "svd":
        assert values[-1] < 0.99 * values[0]


def test_shapes_are_those_of_the_factors(
    make_line: Callable[[Problem], Line], make_problem: Make
) -> None:
    line = make_line(make_problem(3, kernel=KERNEL, inputs=4))
    assert tuple(factor.shape for factor in line.solve(3, 1)) == line.shapes(3)
    assert str(3) in line.describe(3)


def test_energy_counts_whitened_singular_values(make_problem: Make) -> None:
    problem = make_problem(4, inputs=8)
    line = SvdLine(problem)
    lower = np.linalg.cholesky(problem.metric)
    values = np.linalg.svd(problem.wanted @ lower, compute_uv=False) ** 2
    rank = line.rank_at(0.9)
    assert values[:rank].sum() >= 0.9 * values.sum() > values[: rank - 1].sum()


def test_a_separation_is_the_nearest_of_its_form(make_problem: Make) -> None:
    problem = make_problem(5, kernel=(3, 3), inputs=4, plain=True)
    line, rank = SpatialLine(problem), 3
    taps = problem.wanted.reshape(6, 3, 3, 4).transpose(0, 2, 1, 3).reshape(18, 12)
    left = np.linalg.svd(taps, compute_uv=False)[rank:]
    assert line.error(rank) * problem.spread == pytest.approx(np.sum(left**2))


def test_tucker_finds_a_layer_that_has_its_form(make_problem: Make) -> None:
    rng = np.random.default_rng(6)
    u, v = rng.standard_normal((6, 2)), rng.standard_normal((3, 5))
    core = rng.standard_normal((2, 3, 3, 3))
    whole = np.einsum("op,pijq,qc->oijc", u, core, v).reshape(6, -1)
    base = make_problem(6, kernel=(3, 3), inputs=5)
    problem = Problem(
        wanted=whole,
        metric=base.metric,
        measured=base.measured,
        kernel=(3, 3),
        spread=float(np.sum((whole @ base.measured) * whole)),
    )
    line = _tucker(problem, inner=3)
    # The error is a square: float64's rounding squared, by the condition of H, is below 1e-12.
    assert line.error(2) < 1e-12
    assert line.error(1) > 1e-3
    assert np.allclose(product(line.solve(2, 0)), whole, atol=1e-6)
