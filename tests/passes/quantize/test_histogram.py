"""Mirror of passes/quantize/histogram.py."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvmopt.errors import DataError
from tvmopt.passes.quantize.histogram import BINS, MOMENTUM, Statistics

VALUES = st.lists(
    st.floats(-1e6, 1e6, width=32, allow_subnormal=False), min_size=1, max_size=30
).map(lambda v: np.array(v, np.float32))


def _of(*batches: np.ndarray) -> Statistics:
    stats = Statistics("x")
    for batch in batches:
        stats.update(batch)
    return stats


def _bins(stats: Statistics) -> dict[int, int]:
    counts = stats.histogram.counts
    return {stats.histogram.first + int(i): int(counts[i]) for i in np.flatnonzero(counts)}


@settings(max_examples=200, derandomize=True)
@given(batches=st.lists(VALUES, min_size=1, max_size=6), data=st.data())
def test_counts_depend_on_the_values_alone(batches: list[np.ndarray], data: st.DataObject) -> None:
    whole = _of(np.concatenate(batches))
    streamed = _of(*data.draw(st.permutations(batches)))
    assert (streamed.low, streamed.high, streamed.count) == (whole.low, whole.high, whole.count)
    assert streamed.histogram.exponent == whole.histogram.exponent
    assert _bins(streamed) == _bins(whole)


@settings(max_examples=200, derandomize=True)
@given(values=VALUES)
def test_each_value_lies_in_its_bin(values: np.ndarray) -> None:
    histogram = _of(values).histogram
    assert histogram.counts.sum() == values.size
    from_bins = np.repeat(histogram.centers(), histogram.counts)
    # A value is at most half a bin from the middle of its bin; both sides are exact in float64.
    assert np.abs(np.sort(values.astype(np.float64)) - from_bins).max() <= histogram.width / 2


@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1.0, 1e30])
def test_half_of_the_bins_are_in_use(scale: float) -> None:
    values = np.random.default_rng(0).uniform(-1, 3, 100_000).astype("float32") * np.float32(scale)
    stats = _of(values)
    used = (stats.high - stats.low) / stats.histogram.width
    assert BINS / 2 - 1 <= used <= BINS


def test_memory_does_not_grow_with_the_samples() -> None:
    rng = np.random.default_rng(0)
    few = _of(rng.normal(size=1000).astype("float32"))
    many = _of(*(rng.normal(size=1000).astype("float32") * i for i in range(1, 200)))
    # Numbers take a few bytes more when they are larger; a value kept for each sample would be kB.
    assert len(pickle.dumps(many)) <= len(pickle.dumps(few)) + 64


def test_constant_tensors_have_one_bin() -> None:
    for value in (0.0, 5.0, -3e37, 1e-38):
        histogram = _of(np.full(10, value, np.float32)).histogram
        assert histogram.counts.max() == 10
        off = histogram.centers()[np.argmax(histogram.counts)] - np.float32(value)
        assert abs(off) <= histogram.width / 2


def test_moving_average_forgets_by_a_tenth_a_batch() -> None:
    stats = _of(np.array([-1.0, 2.0]), np.array([-3.0, 2.0]))
    assert stats.average_low == pytest.approx(MOMENTUM * -1 + (1 - MOMENTUM) * -3)
    assert stats.average_high == pytest.approx(2.0)


def test_histogram_stays_empty_where_nobody_looks() -> None:
    stats = Statistics("x", counted=False)
    stats.update(np.arange(5.0))
    assert (stats.low, stats.high, stats.histogram.counts.sum()) == (0.0, 4.0, 0)


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_by_name(odd: float) -> None:
    with pytest.raises(DataError, match=f"tensor 'fc1' must be finite .* got {odd}"):
        Statistics("fc1").update(np.array([1.0, odd, 2.0], np.float32))
