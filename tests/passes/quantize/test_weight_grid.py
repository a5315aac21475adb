"""Mirror of passes/quantize/weight_grid.py."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvmopt.errors import OptionError
from tvmopt.passes.quantize.grid import signed, symmetric
from tvmopt.passes.quantize.weight_grid import WeightChoice, weight_grid


def _weight(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(4, shape).astype("float32")


def _error(weight: np.ndarray, bits: int, method: str, **where: int) -> np.ndarray:
    grid = weight_grid(weight, WeightChoice(levels=symmetric(bits), method=method), **where)
    return np.square(grid.round_trip(weight).astype(np.float64) - weight)


@settings(max_examples=40, derandomize=True)
@given(bits=st.integers(2, 8), seed=st.integers(0, 10))
def test_searched_scale_is_never_worse_in_any_channel(bits: int, seed: int) -> None:
    weight = _weight(seed, 16, 4, 3)
    searched, greatest = (_error(weight, bits, m, axis=1).sum((0, 2)) for m in ("mse", "max"))
    # The search sums float32 squares: 48 of them, each off by 2^-24.
    assert (searched <= greatest * (1 + 48 * 2.0**-24)).all()


def test_searched_scale_pays_at_few_bits() -> None:
    weight = _weight(0, 64, 32)
    assert _error(weight, 4, "mse", axis=1).sum() < 0.9 * _error(weight, 4, "max", axis=1).sum()


def test_greatest_weight_is_the_last_level() -> None:
    weight = _weight(1, 8, 8)
    grid = weight_grid(weight, WeightChoice(levels=symmetric(4), method="max"), axis=0)
    assert (np.abs(grid.quantize(weight)).max(1) == 7).all()


def test_importance_moves_the_scale_to_what_counts() -> None:
    weight = np.concatenate([_weight(2, 255), [30.0]]).astype("float32")
    choice = WeightChoice(levels=symmetric(4))
    alike = weight_grid(weight, choice)
    factors = np.where(weight == 30.0, 1e6, 1.0)
    outlier = weight_grid(weight, choice, importance=factors)
    assert abs(outlier.round_trip(weight)[-1] - 30.0) < abs(alike.round_trip(weight)[-1] - 30.0)


def test_asymmetric_levels_follow_a_one_sided_weight() -> None:
    weight = np.abs(_weight(3, 32, 8))
    one, two = (
        weight_grid(weight, WeightChoice(levels=levels, method="max"), axis=0, group=16)
        for levels in (signed(4), symmetric(4))
    )
    assert one.scale.shape == two.scale.shape == (2, 8)
    np.testing.assert_allclose(one.scale * 15, two.scale * 7, rtol=1e-6)  # float32 quotients
    assert (one.zero_point == -8).all()


def test_group_must_divide_the_axis() -> None:
    with pytest.raises(OptionError, match="must divide the 10 rows of the weight, got 4"):
        weight_grid(_weight(4, 10, 2), WeightChoice(levels=symmetric(4)), axis=0, group=4)


def test_method_is_known() -> None:
    with pytest.raises(OptionError, match="method must be 'max' or 'mse', got 'min'"):
        WeightChoice(levels=symmetric(4), method="min")
