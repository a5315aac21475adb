"""Mirror of passes/prune/refit_rows.py: least squares on what is not zero."""

from __future__ import annotations

import numpy as np
import pytest

from tvmopt.passes.prune.refit_rows import refit_rows, same_places
from tvmopt.passes.quantize.hessian import Moments, MomentSum


def _halves(
    rows: np.ndarray, wanted: np.ndarray, *, has_bias: bool, noise: float = 0.0, count: int = 400
) -> tuple[Moments, Moments]:
    """Moments of random inputs whose outputs are those of the weights ``wanted``."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(2):
        x = rng.standard_normal((count, rows.shape[1] - has_bias)) @ np.diag(
            np.linspace(0.5, 2.0, rows.shape[1] - has_bias)
        )
        wide = np.concatenate([x, np.ones((count, 1))], axis=1) if has_bias else x
        y = wide @ wanted.T
        y += noise * rng.standard_normal(y.shape)
        total = MomentSum(rows[None], has_bias=has_bias, layer="layer")
        total.add(x[None], y[None])
        found.append(total.finish())
    return found[0], found[1]


def _pattern(o: int, k: int) -> np.ndarray:
    return np.random.default_rng(2).random((o, k)) < 0.5


@pytest.mark.parametrize("has_bias", [False, True])
def test_weights_that_can_give_the_outputs_do(has_bias: bool) -> None:
    rng = np.random.default_rng(0)
    wanted = rng.standard_normal((6, 12)) * _pattern(6, 12)
    wanted[:, -1] = 3.0
    start = np.where(wanted != 0, wanted + rng.standard_normal(wanted.shape), 0.0)
    fit = refit_rows(start, _halves(start, wanted, has_bias=has_bias), 1e-9, has_bias=has_bias)
    # Off by the ridge, a billionth, and by what float32 keeps of numbers below 8.
    assert np.allclose(fit.rows, wanted, atol=2e-6)
    assert fit.share == pytest.approx(1.0, abs=1e-6)
    assert fit.after < 1e-12 < fit.before


def test_zeros_stay_and_the_error_never_rises() -> None:
    rng = np.random.default_rng(3)
    for case in range(20):
        wanted = rng.standard_normal((5, 9))
        start = wanted * _pattern(5, 9)
        start[:, 0] = 1.0
        noise = 3.0 if case % 2 else 0.0
        halves = _halves(start, wanted, has_bias=False, noise=noise, count=3 + case)
        fit = refit_rows(start, halves, 0.01, has_bias=False)
        assert not np.any(fit.rows[start == 0])
        assert fit.after <= fit.before
        assert 0.0 <= fit.share <= 1.0


def test_a_bias_of_zero_may_move() -> None:
    wanted = np.array([[1.0, 0.0, 2.0]])
    start = np.array([[1.0, 0.0, 0.0]])
    fit = refit_rows(start, _halves(start, wanted, has_bias=True), 1e-9, has_bias=True)
    assert np.allclose(fit.rows, wanted, atol=1e-6)


def test_noise_is_not_learned() -> None:
    # As many weights an output as rows: the fit meets any outputs of its half, and none of the
    # other's, so that hardly any of it is trusted.
    start = np.ones((4, 20))
    halves = _halves(start, start, has_bias=False, noise=10.0, count=20)
    assert refit_rows(start, halves, 0.01, has_bias=False).share < 0.3


def test_rows_of_the_same_zeros_are_found_together() -> None:
    free = np.array([[1, 0, 1], [0, 0, 0], [1, 0, 1], [0, 1, 0]], bool)
    found = [(rows.tolist(), places.tolist()) for rows, places in same_places(free)]
    assert found == [([0, 2], [0, 2]), ([3], [1])]
