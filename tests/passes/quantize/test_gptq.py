"""GPTQ: against its paper's equations, and never worse than what it falls back on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvmopt.passes.quantize.gptq import Elimination, round_gptq, wanted_weights
from tvmopt.passes.quantize.round_weights import Rounding

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


def _gptq(layer: Rounding, start: np.ndarray, *, order: bool) -> np.ndarray:
    how = Elimination.of(layer.hessian, has_bias=layer.has_bias, activation_order=order)
    return round_gptq(layer, start, how)


def _on_grid(layer: Rounding, q: np.ndarray) -> bool:
    weights = q[..., : layer.inputs]
    return np.array_equal(layer.grid.nearest(weights), weights)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(**SHAPES, order=st.booleans())
def test_gptq_is_never_worse_than_what_it_falls_back_on(
    make_rounding: MakeRounding, order: bool, **shape: int
) -> None:
    layer = make_rounding(**shape)
    start = layer.nearest(layer.wanted)
    got = _gptq(layer, start, order=order)
    assert np.all(layer.objective(got) <= layer.objective(start) * SLACK)
    assert _on_grid(layer, got)


@pytest.mark.parametrize("inputs", [40, 300])  # within a block, and over its ends
@pytest.mark.parametrize("order", [True, False])
def test_gptq_is_much_better_than_nearest_on_correlated_inputs(
    make_rounding: MakeRounding, inputs: int, order: bool
) -> None:
    layer = make_rounding(0, outputs=16, inputs=inputs)
    start = layer.nearest(layer.wanted)
    got = _gptq(layer, start, order=order)
    assert layer.objective(got).sum() < 0.5 * layer.objective(start).sum()


def test_gptq_on_a_diagonal_hessian_is_rounding_to_nearest(make_rounding: MakeRounding) -> None:
    layer = make_rounding(0, bias=False)
    plain = Rounding(wanted=layer.wanted, hessian=np.eye(8)[None], grid=layer.grid, has_bias=False)
    nearest = plain.nearest(plain.wanted)
    np.testing.assert_array_equal(_gptq(plain, nearest, order=True), nearest)


def _gptq_by_definition(layer: Rounding) -> np.ndarray:
    """Return the weights of the paper's equations 2 and 3, the inverse found anew at every step."""
    q = layer.wanted[0].copy()
    for k in range(layer.inputs):
        inverse = np.linalg.inv(layer.hessian[0][k:, k:])
        rounded = layer.grid.column(k).nearest(q[None, :, k : k + 1])[0, :, 0]
        q[:, k:] -= np.outer((q[:, k] - rounded) / inverse[0, 0], inverse[0])
        q[:, k] = rounded
    return q[None]


@pytest.mark.parametrize("bias", [True, False])
def test_gptq_is_the_papers_elimination(make_rounding: MakeRounding, bias: bool) -> None:
    layer = make_rounding(3, inputs=140, bias=bias)
    # A fallback that is worse for every output, so that what is returned is GPTQ's own.
    worst = layer.grid.nearest(-layer.wanted[..., : layer.inputs])
    start = np.concatenate([worst, layer.wanted[..., layer.inputs :]], axis=-1)
    got = _gptq(layer, start, order=False)
    want = _gptq_by_definition(layer)
    np.testing.assert_array_equal(got[..., : layer.inputs], want[..., : layer.inputs])
    # The bias solves one equation whose terms are below 1e3: 1e3 * 150 roundings of 2^-53.
    np.testing.assert_allclose(got, want, atol=1e-9)


def test_wanted_weights_solve_the_ridge_regression(make_rounding: MakeRounding) -> None:
    rng = np.random.default_rng(0)
    layer = make_rounding(5, groups=2)
    missed = rng.standard_normal(layer.wanted.shape)
    got = wanted_weights(layer.wanted, missed, layer.hessian)
    # A well conditioned system of 9 unknowns: 9^2 roundings of 2^-53 times its condition, < 1e6.
    np.testing.assert_allclose(np.matmul(got - layer.wanted, layer.hessian), missed, atol=1e-8)
