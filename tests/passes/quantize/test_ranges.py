"""Mirror of passes/quantize/ranges.py."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvmopt.errors import OptionError
from tvmopt.passes.quantize.grid import affine_grid, unsigned
from tvmopt.passes.quantize.histogram import Statistics
from tvmopt.passes.quantize.ranges import (
    choose_range,
    entropy,
    minmax,
    moving_average,
    mse,
    percentile,
)

LEVELS = unsigned(8)


def _stats(values: np.ndarray, batches: int = 4) -> Statistics:
    stats = Statistics("x")
    for batch in np.array_split(values.astype("float32"), batches):
        stats.update(batch)
    return stats


def _laplace(seed: int = 0, count: int = 20_000) -> np.ndarray:
    return np.random.default_rng(seed).laplace(size=count)


def _error(values: np.ndarray, ends: tuple[float, float], bits: int) -> float:
    return float(np.square(affine_grid(*ends, unsigned(bits)).round_trip(values) - values).sum())


def test_minmax_is_the_extremes() -> None:
    values = _laplace().astype("float32")
    assert minmax(_stats(values)) == (values.min(), values.max())


def test_moving_average_is_moved_little_by_one_batch() -> None:
    values = np.concatenate([np.tile([-1.0, 1.0], 50), np.tile([-1.0, 101.0], 5)])
    low, high = moving_average(_stats(values, 11))
    # The last of eleven batches has a weight of 0.1.
    assert (low, high) == (pytest.approx(-1.0), pytest.approx(1.0 + 0.1 * 100.0))


@settings(max_examples=50, derandomize=True)
@given(seed=st.integers(0, 100), share=st.sampled_from([90.0, 99.0, 99.9, 100.0]))
def test_percentile_is_within_a_bin_of_the_quantiles(seed: int, share: float) -> None:
    values = _laplace(seed, 5000).astype("float32")
    stats = _stats(values)
    low, high = percentile(stats, share)
    outside = (1 - share / 100) / 2
    # Ranks that lie between two values may be taken at either.
    below = (
        np.quantile(values, outside, method="higher"),
        np.quantile(values, outside, method="lower"),
    )
    above = (
        np.quantile(values, 1 - outside, method="lower"),
        np.quantile(values, 1 - outside, method="higher"),
    )
    width = stats.histogram.width
    assert below[1] - width <= low <= below[0] + width
    assert above[0] - width <= high <= above[1] + width


def test_percentile_100_is_the_extremes() -> None:
    stats = _stats(_laplace())
    assert percentile(stats, 100.0) == minmax(stats)


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_mse_is_no_worse_than_the_extremes(bits: int) -> None:
    values = _laplace().astype("float32")
    stats = _stats(values)
    chosen = mse(stats, unsigned(bits))
    # A value is known to half a bin: of the two losses each is off by at most the error that such
    # a shift makes, 2 * |error| * width / 2 + (width / 2)^2 a value.
    step = (stats.high - stats.low) / (2**bits - 1)
    width = stats.histogram.width
    slack = values.size * (step * width + width**2)
    assert _error(values, chosen, bits) <= _error(values, minmax(stats), bits) + slack


def test_mse_clips_a_long_tail_at_few_bits() -> None:
    values = np.concatenate([_laplace(), [30.0]])
    low, high = mse(_stats(values), unsigned(4))
    assert high < 15.0
    assert _error(values, (low, high), 4) < 0.5 * _error(values, (values.min(), 30.0), 4)


def test_mse_of_a_rectified_tensor_keeps_zero() -> None:
    low, high = mse(_stats(np.maximum(_laplace(), 0)), LEVELS)
    assert low == 0.0
    assert high > 0.0


def test_entropy_clips_outliers_and_keeps_a_uniform_range() -> None:
    rng = np.random.default_rng(0)
    spiked = np.concatenate([np.abs(rng.normal(size=50_000)), [100.0]])
    assert entropy(_stats(spiked), LEVELS)[1] < 50.0
    uniform = rng.uniform(0, 1, 200_000)
    # Clipping a tenth of a uniform tensor piles that tenth on one bin.
    assert entropy(_stats(uniform), LEVELS)[1] > 0.9


def test_entropy_does_not_mind_the_zeros_of_a_rectifier() -> None:
    values = np.clip(np.random.default_rng(0).normal(-1, 2, 100_000), 0, 6)
    assert entropy(_stats(values), LEVELS)[1] > 4.0


def test_entropy_moves_each_end_on_its_own() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(size=50_000), [200.0]])
    low, high = entropy(_stats(values), LEVELS)
    assert -low > 0.5 * -values.min()
    assert high < 100.0


@pytest.mark.parametrize("method", ["minmax", "moving_average", "percentile", "mse", "entropy"])
def test_each_name_is_its_function(method: str) -> None:
    stats = _stats(_laplace())
    expected = {
        "minmax": minmax(stats),
        "moving_average": moving_average(stats),
        "percentile": percentile(stats, 99.9),
        "mse": mse(stats, LEVELS),
        "entropy": entropy(stats, LEVELS),
    }[method]
    assert choose_range(stats, method, LEVELS, 99.9) == expected


def test_unknown_methods_are_refused() -> None:
    with pytest.raises(OptionError, match=r"must be one of minmax, .*entropy, got 'kl'"):
        choose_range(_stats(_laplace()), "kl", LEVELS)


@pytest.mark.parametrize("method", ["mse", "entropy"])
def test_search_is_refused_where_bins_are_coarser_than_levels(method: str) -> None:
    with pytest.raises(OptionError, match="at most 1024 levels, got 65536; take 'minmax'"):
        choose_range(_stats(_laplace()), method, unsigned(16))
