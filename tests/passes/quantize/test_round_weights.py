"""Rounding by a layer's objective, coordinate by coordinate."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvmopt.passes.quantize.round_weights import Rounding, WeightGrid, improve

MakeRounding = Callable[..., Rounding]

# A bias is not rounded, a weight is: objectives that should be equal differ by rounding only, a few
# hundred operations of 2^-53 on numbers of the size of the objective itself.
SLACK = 1.0 + 1e-11

SHAPES = {
    "seed": st.integers(0, 10_000),
    "groups": st.integers(1, 3),
    "outputs": st.integers(1, 4),
    "inputs": st.integers(1, 150),
    "high": st.sampled_from([1, 7, 64]),
    "bias": st.booleans(),
}


def _on_grid(layer: Rounding, q: np.ndarray) -> bool:
    weights = q[..., : layer.inputs]
    return np.array_equal(layer.grid.nearest(weights), weights)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(**SHAPES, neighbours=st.booleans(), sweeps=st.integers(0, 3))
def test_descent_never_raises_the_objective_of_any_output(
    make_rounding: MakeRounding, neighbours: bool, sweeps: int, **shape: int
) -> None:
    layer = make_rounding(**shape)
    start = layer.nearest(layer.wanted)
    got = improve(layer, start, sweeps, neighbours=neighbours)
    assert np.all(layer.objective(got) <= layer.objective(start) * SLACK)
    assert _on_grid(layer, got)


@pytest.mark.parametrize("seed", range(5))
def test_descent_ends_where_no_single_move_helps(make_rounding: MakeRounding, seed: int) -> None:
    layer = make_rounding(seed, outputs=1, inputs=4, high=1)
    got = improve(layer, layer.nearest(layer.wanted), 50)
    for k, level in itertools.product(range(4), (-1.0, 0.0, 1.0)):
        other = got.copy()
        other[0, 0, k] = level * layer.grid.scale[0, 0, 0]
        assert layer.objective(got)[0, 0] <= layer.objective(other)[0, 0] * SLACK


def test_neighbours_are_the_numbers_around_the_weights_wanted(make_rounding: MakeRounding) -> None:
    layer = make_rounding(1, inputs=30)
    got = improve(layer, layer.nearest(layer.wanted), 5, neighbours=True)
    steps = np.abs(got - layer.wanted)[..., :30] / layer.grid.scale
    assert np.all(steps < 1.0)
    assert np.any(steps > 0.5)  # some are not the nearest: that is what was learned


def test_the_best_bias_has_no_slope(make_rounding: MakeRounding) -> None:
    layer = make_rounding(2)
    q = layer.nearest(layer.wanted)
    slope = np.matmul(q - layer.wanted, layer.hessian)[..., -1]
    # One dot product of 9 terms below 1e2.
    np.testing.assert_allclose(slope, 0.0, atol=1e-12)


def test_each_output_keeps_the_better_of_two(make_rounding: MakeRounding) -> None:
    layer = make_rounding(4, outputs=2)
    near = layer.nearest(layer.wanted)
    far = near.copy()
    far[0, 0, 0] += 100.0
    got = layer.better(far, near)
    np.testing.assert_array_equal(got, near)
    np.testing.assert_array_equal(layer.better(layer.wanted, near), layer.wanted)


def test_an_asymmetric_grid_keeps_its_zero_point() -> None:
    scale, zero = np.full((1, 1, 1), 0.5), np.full((1, 1, 1), 3.0)
    grid = WeightGrid(scale=scale, zero_point=zero, low=0, high=7)
    values = np.array([[[-9.0, -1.5, 0.0, 0.3, 2.0, 9.0]]])
    got = grid.nearest(values)
    np.testing.assert_array_equal(got, [[[-1.5, -1.5, 0.0, 0.5, 2.0, 2.0]]])
    np.testing.assert_array_equal(grid.integers(got), [[[0, 0, 3, 4, 7, 7]]])


@pytest.mark.parametrize("neighbours", [False, True])
def test_what_was_pruned_stays_zero(
    make_rounding: Callable[..., Rounding], *, neighbours: bool
) -> None:
    problem = make_rounding(0)
    zeros = np.random.default_rng(1).random(problem.wanted[..., : problem.inputs].shape) < 0.5
    problem = replace(problem, grid=replace(problem.grid, zeros=zeros))
    start = problem.nearest(problem.wanted)
    for q in (start, improve(problem, start, 3, neighbours=neighbours)):
        assert not q[..., : problem.inputs][zeros].any()
        assert q[..., : problem.inputs][~zeros].any()
