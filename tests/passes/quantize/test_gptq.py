"""GPTQ: against its paper's equations, and never worse than what it falls back on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvmopt.passes.quantize.gptq import Elimination, round_gptq, trusted_share, wanted_weights
from tvmopt.passes.quantize.hessian import Moments, MomentSum, regularized
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


def _halves(rows: int, *, shift: float, seed: int = 0) -> tuple[Moments, Moments]:
    """Return moments of 40 inputs whose outputs miss ``shift`` times the first, and noise."""
    rng = np.random.default_rng(seed)
    halves = []
    for _ in range(2):
        x = rng.standard_normal((1, rows, 40))
        total = MomentSum(np.zeros((1, 3, 41)), has_bias=True, layer="conv")
        total.add(x, shift * x[..., :1] + rng.standard_normal((1, rows, 3)))
        halves.append(total.finish())
    return halves[0], halves[1]


def test_a_change_that_other_rows_confirm_is_trusted() -> None:
    assert trusted_share(_halves(2000, shift=10.0), 0.01, has_bias=True) > 0.95


def test_a_change_fitted_to_noise_by_few_rows_is_not() -> None:
    assert trusted_share(_halves(20, shift=0.0), 0.01, has_bias=True) < 0.2


def test_the_share_is_the_best_for_the_other_half() -> None:
    halves = _halves(60, shift=1.0)
    share = trusted_share(halves, 0.01, has_bias=True)
    assert 0.0 < share < 1.0

    def missed(part: float) -> float:
        total = 0.0
        for fitted, other in (halves, halves[::-1]):
            ridged = regularized(fitted.inputs, 0.01, has_bias=True)
            exact = np.zeros_like(fitted.missed)
            total += other.error(part * wanted_weights(exact, fitted.missed, ridged)).sum()
        return total

    assert missed(share) < min(missed(share - 0.01), missed(share + 0.01))


def test_no_change_needs_no_trust() -> None:
    x = np.random.default_rng(0).standard_normal((1, 50, 4))
    total = MomentSum(np.ones((1, 2, 4)), has_bias=False, layer="conv")
    total.add(x, np.matmul(x, np.ones((1, 4, 2))))
    exact = total.finish()
    none = Moments(
        inputs=exact.inputs,
        missed=np.zeros_like(exact.missed),
        energy=exact.energy,
        wanted=exact.wanted,
        rows=50,
    )
    assert trusted_share((none, none), 0.01, has_bias=False) == 1.0
