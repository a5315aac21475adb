"""Mirror of passes/lowrank/fit.py and problem.py: against least squares written out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import minimize

from tvmopt.passes.lowrank.fit import conjugate_gradients, energy_of, prefix_errors, reduced_rank
from tvmopt.passes.lowrank.problem import Problem, plain_problem, sampled_problem
from tvmopt.passes.quantize.hessian import MomentSum

Make = Callable[..., Problem]


def test_plain_factors_are_the_nearest_of_their_rank(make_problem: Make) -> None:
    wanted = make_problem(0, plain=True).wanted
    outer, inner, values = reduced_rank(wanted, np.eye(wanted.shape[1]))
    # Eckart and Young: no matrix of rank r is nearer than the singular values that it leaves out.
    exact = np.linalg.svd(wanted, compute_uv=False)
    assert np.allclose(values, exact, rtol=1e-12)
    for rank in range(len(values) + 1):
        left = np.sum(np.square(wanted - outer[:, :rank] @ inner[:rank]))
        assert left == pytest.approx(np.sum(exact[rank:] ** 2), rel=1e-10, abs=1e-20)


def test_whitened_factors_are_as_good_as_a_search_finds(make_problem: Make) -> None:
    problem, rank = make_problem(1, outputs=4, inputs=5), 2
    wanted, metric = problem.wanted, problem.metric
    outer, inner, _ = reduced_rank(wanted, metric)
    ours = energy_of(wanted - outer[:, :rank] @ inner[:rank], metric)

    def objective(flat: np.ndarray) -> float:
        a, b = flat[: 4 * rank].reshape(4, rank), flat[4 * rank :].reshape(rank, 5)
        return energy_of(wanted - a @ b, metric)

    rng = np.random.default_rng(2)
    starts = rng.standard_normal((6, rank * 9))
    found = min(minimize(objective, x, method="BFGS", options={"gtol": 1e-9}).fun for x in starts)
    # Quasi-Newton with numerical gradients stops within about 1e-6 of the least.
    assert ours <= found * (1 + 1e-9)
    assert found == pytest.approx(ours, rel=1e-4)
    plain_outer, plain_inner, _ = reduced_rank(wanted, np.eye(5))
    assert ours < energy_of(wanted - plain_outer[:, :rank] @ plain_inner[:rank], metric)


def test_what_is_between_the_factors_is_of_even_size(make_problem: Make) -> None:
    problem = make_problem(3)
    _, inner, _ = reduced_rank(problem.wanted, problem.metric)
    # 1e-9: rounding of 1e-16 by the metric's condition, about 1e4.
    assert np.allclose(inner @ problem.metric @ inner.T, np.eye(len(inner)), atol=1e-9)


def test_errors_of_all_ranks_are_those_written_out(make_problem: Make) -> None:
    problem = make_problem(4)
    outer, inner, _ = reduced_rank(problem.wanted, problem.metric)
    seen = inner @ problem.measured
    whole = energy_of(problem.wanted, problem.measured)
    errors = prefix_errors(outer, seen @ inner.T, seen @ problem.wanted.T, whole)
    for rank in range(len(inner) + 1):
        exact = energy_of(problem.wanted - outer[:, :rank] @ inner[:rank], problem.measured)
        assert errors[rank] == pytest.approx(exact, abs=1e-12 * whole)


def test_conjugate_gradients_solve_and_never_lose() -> None:
    rng = np.random.default_rng(5)
    root = rng.standard_normal((6, 6))
    matrix, right, start = root @ root.T + np.eye(6), rng.standard_normal(6), rng.standard_normal(6)

    def objective(x: np.ndarray) -> float:
        return float(x @ matrix @ x / 2 - x @ right)

    way = [conjugate_gradients(lambda x: matrix @ x, right, start, n) for n in range(8)]
    values = [objective(x) for x in way]
    assert values == sorted(values, reverse=True)
    assert np.allclose(matrix @ way[-1], right, atol=1e-9)
    assert np.array_equal(way[0], start)


def _halves(
    rows: np.ndarray, x: np.ndarray, y: np.ndarray, *, has_bias: bool
) -> tuple[MomentSum, MomentSum]:
    halves = tuple(MomentSum(rows[None], has_bias=has_bias, layer="fc") for _ in range(2))
    for half, total in enumerate(halves):
        total.add(x[None, half::2], y[None, half::2])
    return halves


@pytest.mark.parametrize("has_bias", [True, False])
def test_the_error_of_a_problem_is_that_of_outputs(has_bias: bool) -> None:
    rng = np.random.default_rng(6)
    rows = rng.standard_normal((3, 5 + has_bias))
    x = rng.standard_normal((400, 5)) + 2.0  # a mean, which a bias can take
    one = np.concatenate([x, np.ones((400, 1))], axis=1) if has_bias else x
    y = one @ rows.T
    sums = _halves(rows, x, y, has_bias=has_bias)
    halves = sums[0].finish(), sums[1].finish()
    problem = sampled_problem(rows, halves, (1, 1), has_bias=has_bias, ridge=0.01, whiten=True)
    # The layer gives what is wanted, so that the target is the layer itself.
    assert np.allclose(problem.wanted, rows[:, :5])
    weight = rng.standard_normal((3, 5))
    bias = problem.bias_for(weight)
    got = x @ weight.T + (0.0 if bias is None else bias)
    varies = y - y.mean(axis=0) if has_bias else y
    share = np.sum(np.square(got - y)) / np.sum(np.square(varies))
    assert problem.error(weight) == pytest.approx(share, rel=1e-9)


def test_the_best_bias_cannot_be_bettered() -> None:
    rng = np.random.default_rng(7)
    rows, x = rng.standard_normal((2, 4)), rng.standard_normal((100, 3)) + 1.0
    y = x @ rows[:, :3].T + rows[:, 3]
    one, other = _halves(rows, x, y, has_bias=True)
    halves = one.finish(), other.finish()
    problem = sampled_problem(rows, halves, (1, 1), has_bias=True, ridge=0.01, whiten=True)
    weight = rng.standard_normal((2, 3))
    bias = problem.bias_for(weight)
    assert np.allclose(bias, np.mean(y - x @ weight.T, axis=0))


def test_the_target_is_what_the_dense_net_gives_on_other_inputs() -> None:
    rng = np.random.default_rng(8)
    rows, x = rng.standard_normal((2, 3)), rng.standard_normal((5000, 3))
    other = x * np.array([2.0, 1.0, 0.5])  # what the layers before made of the inputs
    sums = _halves(rows, other, x @ rows.T, has_bias=False)
    halves = sums[0].finish(), sums[1].finish()
    problem = sampled_problem(rows, halves, (1, 1), has_bias=False, ridge=1e-6, whiten=True)
    # The ridge of 1e-6 pulls by as much.
    assert np.allclose(problem.wanted, rows / np.array([2.0, 1.0, 0.5]), rtol=1e-4)


def test_plain_problems_want_the_weights_and_keep_the_bias() -> None:
    rng = np.random.default_rng(9)
    weight, bias = rng.standard_normal((3, 4)), rng.standard_normal(3)
    problem = plain_problem(weight, bias, (1, 1))
    assert problem.error(np.zeros_like(weight)) == pytest.approx(1.0)
    assert np.array_equal(problem.bias_for(np.zeros_like(weight)), bias)
    rows = np.concatenate([weight, bias[:, None]], axis=1)
    x = rng.standard_normal((50, 4)) + 1.0
    one, other = _halves(rows, x, x @ weight.T + bias, has_bias=True)
    halves = one.finish(), other.finish()
    sampled = sampled_problem(rows, halves, (1, 1), has_bias=True, ridge=0.01, whiten=False)
    assert np.array_equal(sampled.wanted, weight)
    assert np.array_equal(sampled.metric, np.eye(4))
    got = np.mean(np.square(x @ weight.T), axis=0).sum()
    assert sampled.error(np.zeros_like(weight)) * sampled.spread == pytest.approx(got)
