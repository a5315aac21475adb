"""Moments of a layer's inputs and outputs, streamed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvmopt.errors import DataError, OptionError
from tvmopt.passes.quantize.hessian import (
    MomentSum,
    Patches,
    choose_positions,
    pooled,
    regularized,
)


def _convolve(x: np.ndarray, weight: np.ndarray, how: Patches) -> np.ndarray:
    """Return the convolution by its definition: x NHWC, weight OHWI."""
    top, left, bottom, right = how.padding
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    reach = [d * (k - 1) + 1 for d, k in zip(how.dilation, how.kernel, strict=True)]
    height, width = (
        (size - r) // s + 1
        for size, r, s in zip(padded.shape[1:3], reach, how.strides, strict=True)
    )
    outputs, inputs = weight.shape[0] // how.groups, weight.shape[3]
    y = np.zeros((len(x), height, width, weight.shape[0]))
    for n, i, j, o in np.ndindex(*y.shape):
        group = o // outputs
        for a, b in np.ndindex(*how.kernel):
            row, column = (
                i * how.strides[0] + a * how.dilation[0],
                (j * how.strides[1] + b * how.dilation[1]),
            )
            seen = padded[n, row, column, group * inputs : (group + 1) * inputs]
            y[n, i, j, o] += seen @ weight[o, a, b]
    return y


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    padding=st.tuples(*[st.integers(0, 2)] * 4),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    groups=st.sampled_from([1, 2, 4]),
)
def test_a_convolution_is_its_rows_times_its_weights(
    kernel: tuple[int, int],
    strides: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    groups: int,
) -> None:
    how = Patches(kernel=kernel, strides=strides, padding=padding, dilation=dilation, groups=groups)
    rng = np.random.default_rng(0)
    # Small integers: every sum is exact, whatever its order.
    x = rng.integers(-3, 4, (2, 6, 5, 4)).astype("f4")
    weight = rng.integers(-3, 4, (4, *kernel, 4 // groups)).astype("f4")
    y = _convolve(x, weight, how)
    rows = how.rows(x, (y.shape[1], y.shape[2]), np.arange(y[..., 0].size))
    flat = weight.reshape(groups, 4 // groups, -1)
    got = np.matmul(rows, flat.swapaxes(1, 2)).transpose(1, 0, 2).reshape(y.shape)
    np.testing.assert_array_equal(got, y)


def test_positions_are_distinct_ascending_and_the_same_for_one_seed() -> None:
    places = choose_positions(100, 30, (1, 2))
    assert len(places) == 30
    assert np.all(np.diff(places) > 0)
    np.testing.assert_array_equal(places, choose_positions(100, 30, (1, 2)))
    assert not np.array_equal(places, choose_positions(100, 30, (1, 3)))
    np.testing.assert_array_equal(choose_positions(5, 30, (0, 0)), np.arange(5))


def _moments(seed: int, *, parts: int, has_bias: bool = True):  # noqa: ANN202
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, 60, 5)).astype("f4")
    y = rng.standard_normal((2, 60, 3)).astype("f4")
    weight = rng.standard_normal((2, 3, 5 + has_bias))
    total = MomentSum(weight, has_bias=has_bias, layer="conv")
    for part in np.split(np.arange(60), parts):
        total.add(x[:, part], y[:, part])
    return x, y, weight, total.finish()


def test_streamed_in_parts_or_at_once_gives_the_same() -> None:
    once, parts = _moments(0, parts=1)[-1], _moments(0, parts=6)[-1]
    assert once.rows == parts.rows == 60
    for name in ("inputs", "missed", "energy", "wanted"):
        # Sums of 60 products of float64: 60 roundings of at most 2^-53 of sums below 100.
        np.testing.assert_allclose(getattr(once, name), getattr(parts, name), atol=1e-12)


@pytest.mark.parametrize("has_bias", [True, False])
def test_the_error_is_that_of_the_rows(has_bias: bool) -> None:
    x, y, weight, moments = _moments(1, parts=2, has_bias=has_bias)
    change = np.random.default_rng(2).standard_normal(weight.shape)
    ones = np.ones((2, 60, 1)) if has_bias else np.ones((2, 60, 0))
    whole = np.concatenate([x.astype("f8"), ones], axis=-1)
    direct = np.mean((y - np.matmul(whole, (weight + change).swapaxes(1, 2))) ** 2, axis=1)
    # The three terms are below 1e3 each and cancel to no less than 1: 1e3 * 2^-53 * a few dozen.
    np.testing.assert_allclose(moments.error(change), direct, rtol=1e-11)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    total = MomentSum(np.zeros((1, 2, 4)), has_bias=True, layer="head")
    x = np.zeros((1, 3, 3), "f4")
    x[0, 1, 2] = bad
    total.add(x, np.zeros((1, 3, 2), "f4"))  # three rows wait for more
    with pytest.raises(DataError, match=r"layer 'head': values must be finite .* look at the"):
        total.finish()
    many = np.full((1, 300, 3), bad, "f4")
    with pytest.raises(DataError, match=r"layer 'head': values must be finite .* look at the"):
        total.add(many, np.zeros((1, 300, 2), "f4"))


def test_no_rows_are_refused() -> None:
    total = MomentSum(np.zeros((1, 2, 4)), has_bias=True, layer="head")
    with pytest.raises(DataError, match="layer 'head': must see at least one sample, got none"):
        total.finish()


def test_the_ridge_leaves_the_bias_alone_and_makes_any_inputs_definite() -> None:
    inputs = np.zeros((2, 3, 3))
    inputs[0] = np.outer([2.0, 0.0, 1.0], [2.0, 0.0, 1.0])  # one row of inputs, one of them dead
    inputs[1, -1, -1] = 1.0  # nothing but the constant
    got = regularized(inputs, 0.5, has_bias=True)
    # The mean square of two weights' inputs is (4 + 0) / 2; where it is 0, the ridge is 1.
    np.testing.assert_array_equal(np.diagonal(got[0]), [4.0 + 0.5 * 2.0, 0.5 * 2.0, 1.0])
    np.testing.assert_array_equal(np.diagonal(got[1]), [1.0, 1.0, 1.0])
    assert np.all(np.linalg.eigvalsh(got) > 0)


@pytest.mark.parametrize("ridge", [0.0, -1.0, 1.5, float("nan")])
def test_an_impossible_ridge_is_refused(ridge: float) -> None:
    with pytest.raises(OptionError, match=r"ridge must be in \(0, 1\], got"):
        regularized(np.eye(2)[None], ridge, has_bias=False)


def test_a_singular_hessian_is_refused_in_words() -> None:
    inputs = np.ones((1, 4, 4))
    with pytest.raises(OptionError, match="positive definite Hessian, got 1e-300; raise it"):
        regularized(inputs, 1e-300, has_bias=False)


def test_two_halves_pooled_are_the_whole() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((1, 30, 4)), rng.standard_normal((1, 30, 2))
    parts = (slice(0, 10), slice(10, 30), slice(0, 30))
    sums = [MomentSum(np.ones((1, 2, 5)), has_bias=True, layer="conv") for _ in parts]
    for total, part in zip(sums, parts, strict=True):
        total.add(x[:, part], y[:, part])
    one, other, whole = (total.finish() for total in sums)
    got = pooled(one, other)
    assert got.rows == whole.rows == 30
    for name in ("inputs", "missed", "energy", "wanted"):
        # Sums of 30 float64 products below 100.
        np.testing.assert_allclose(getattr(got, name), getattr(whole, name), atol=1e-12)
