"""Mirror of passes/quantize/codebook.py."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.vq import kmeans as scipy_kmeans

from tvmopt.passes.quantize.codebook import kmeans, nearest, powers_of_two

WEIGHTS = st.integers(0, 1000).map(
    lambda seed: np.random.default_rng(seed).standard_t(3, (8, 30)).astype("float32")
)


def _squares(weight: np.ndarray, table: np.ndarray) -> float:
    return float(np.square(table[nearest(weight, table)].astype(np.float64) - weight).sum())


@settings(max_examples=50, derandomize=True)
@given(weight=WEIGHTS, count=st.integers(2, 40))
def test_nearest_is_nearest(weight: np.ndarray, count: int) -> None:
    table = kmeans(weight, count).astype(np.float64)
    chosen = np.abs(table[nearest(weight, table)] - weight)
    np.testing.assert_array_equal(chosen, np.abs(table - weight[..., None]).min(-1))


@settings(max_examples=50, derandomize=True)
@given(weight=WEIGHTS, count=st.integers(2, 40))
def test_kmeans_is_a_fixed_point_and_ascends(weight: np.ndarray, count: int) -> None:
    table = kmeans(weight, count)
    assert table.dtype == np.float32
    assert len(table) <= count
    assert (np.diff(table) > 0).all()
    codes = nearest(weight, table)
    for i, entry in enumerate(table):
        if (codes == i).any():
            # The mean in float64, rounded to float32 once; borders move by that rounding, which
            # can hand a weight halfway between two entries to the other.
            assert abs(weight[codes == i].mean(dtype=np.float64) - entry) <= 2.0**-22 * abs(entry)


def test_kmeans_is_as_good_as_scipys_best_of_many() -> None:
    weight = np.random.default_rng(0).standard_t(4, 3000).astype("float32")
    theirs, _ = scipy_kmeans(weight.astype(np.float64), 16, iter=20, rng=1)
    # Both stop in a local optimum; ours must not be a bad one.
    assert _squares(weight, kmeans(weight, 16)) <= 1.1 * _squares(weight, np.sort(theirs))


def test_kmeans_beats_uniform_levels() -> None:
    weight = np.random.default_rng(0).standard_t(4, 3000).astype("float32")
    uniform = np.linspace(weight.min(), weight.max(), 16)
    assert _squares(weight, kmeans(weight, 16)) < 0.3 * _squares(weight, uniform)


def test_few_distinct_weights_are_kept_exactly() -> None:
    weight = np.array([3.0, -1.5, 3.0, 0.25, -1.5], np.float32)
    table = kmeans(weight, 16)
    np.testing.assert_array_equal(table, [-1.5, 0.25, 3.0])
    np.testing.assert_array_equal(table[nearest(weight, table)], weight)


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_powers_of_two_are_zero_and_shifts(bits: int) -> None:
    weight = np.random.default_rng(0).normal(size=1000).astype("float32")
    table = powers_of_two(weight, bits)
    assert len(table) == 2**bits - 1
    assert (np.diff(table) > 0).all()
    np.testing.assert_array_equal(table, -table[::-1])
    mantissas, exponents = np.frexp(table[table > 0])
    assert (mantissas == 0.5).all()
    assert (np.diff(exponents) == 1).all()


def test_greatest_weight_is_near_the_greatest_power() -> None:
    for greatest, power in ((1.0, 1.0), (1.1, 1.0), (1.9, 2.0)):
        table = powers_of_two(np.array([greatest, -greatest / 2], np.float32), 4)
        assert table[-1] == power


def test_weights_of_zero_have_a_table() -> None:
    zeros = np.zeros(5, np.float32)
    table = powers_of_two(zeros, 4)
    np.testing.assert_array_equal(table[nearest(zeros, table)], zeros)
    np.testing.assert_array_equal(kmeans(zeros, 4), [0.0])
