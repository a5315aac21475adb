"""Mirror of passes/quantize/grid.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from tvmopt import forms
from tvmopt.errors import OptionError
from tvmopt.passes.quantize.grid import (
    Grid,
    Levels,
    affine_grid,
    minmax,
    signed,
    symmetric,
    symmetric_grid,
    unsigned,
)

Build = Callable[..., tvm.IRModule]
Run = Callable[..., list[np.ndarray]]

FLOATS = st.floats(-1e4, 1e4, width=32)
ARRAYS = st.lists(FLOATS, min_size=1, max_size=40).map(lambda v: np.array(v, np.float32))
BITS = st.integers(2, 8)


@pytest.mark.parametrize(
    ("levels", "low", "high", "dtype"),
    [
        (unsigned(8), 0, 255, "uint8"),
        (unsigned(16), 0, 65535, "uint16"),
        (signed(8), -128, 127, "int8"),
        (signed(4), -8, 7, "int8"),
        (symmetric(8), -127, 127, "int8"),
        (symmetric(7), -64, 64, "int8"),
        (symmetric(2), -1, 1, "int8"),
        (symmetric(16), -32767, 32767, "int16"),
    ],
)
def test_levels(levels: Levels, low: int, high: int, dtype: str) -> None:
    assert levels == Levels(low=low, high=high, dtype=dtype)


def test_seven_bits_never_saturate_a_pair_of_products() -> None:
    assert 2 * unsigned(8).high * symmetric(7).high <= np.iinfo("int16").max
    assert 2 * unsigned(8).high * (symmetric(7).high + 1) > np.iinfo("int16").max


@pytest.mark.parametrize("bits", [1, 17])
@pytest.mark.parametrize("make", [unsigned, signed, symmetric])
def test_bits_are_from_2_to_16(make: Callable[[int], Levels], bits: int) -> None:
    with pytest.raises(OptionError, match=f"bits must be from 2 to 16, got {bits}"):
        make(bits)


@settings(max_examples=100, derandomize=True)
@given(x=ARRAYS, bits=BITS)
def test_error_is_at_most_half_a_step(x: np.ndarray, bits: int) -> None:
    affine = affine_grid(x.min(), x.max(), unsigned(bits))
    whole = symmetric_grid(np.abs(x).max(), symmetric(bits))
    for grid, at_the_ends in ((affine, 1.0), (whole, 0.5)):
        # Half a step within; rounding the zero point moves the ends of an affine grid by another
        # half. A float32 quotient of up to 255 steps is off by 255 * 2^-24 of a step.
        step = float(grid.scale)
        error = np.abs(grid.round_trip(x).astype(np.float64) - x).max()
        assert error <= step * (at_the_ends + 1e-4)


@settings(max_examples=100, derandomize=True)
@given(x=ARRAYS, bits=BITS)
def test_zero_is_exact_and_points_of_the_grid_stay(x: np.ndarray, bits: int) -> None:
    grid = affine_grid(x.min(), x.max(), unsigned(bits))
    assert grid.round_trip(np.zeros(1))[0] == 0.0
    points = grid.dequantize(np.arange(grid.levels.high + 1).astype("uint8"))
    np.testing.assert_array_equal(grid.round_trip(points), points)


@settings(max_examples=100, derandomize=True)
@given(x=ARRAYS, bits=BITS)
def test_minmax_is_the_formula_and_spans_all_levels(x: np.ndarray, bits: int) -> None:
    q = minmax(x, bits)
    low, high = float(x.min()), float(x.max())
    if low == high:
        assert not q.any()
        return
    assert (q.min(), q.max()) == (0, 2**bits - 1)
    back = q / (2**bits - 1) * (high - low) + low
    # Half a step, and the rounding of float64.
    assert np.abs(back - x).max() <= (high - low) / (2**bits - 1) * 0.5 * (1 + 1e-9)


def test_minmax_is_the_affine_grid_where_zero_lies_on_it() -> None:
    x = np.random.default_rng(0).uniform(-3, 12, 1000).astype("float32")
    x[:2] = -3, 12  # fifteen steps of 1
    np.testing.assert_array_equal(
        minmax(x, 4), affine_grid(x.min(), x.max(), unsigned(4)).quantize(x)
    )


def test_halves_round_to_even_and_ends_clip() -> None:
    grid = symmetric_grid(np.array(127.0), symmetric(8))
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 1e9, -1e9], np.float32)
    np.testing.assert_array_equal(grid.quantize(x), [0, 2, 2, 0, -2, 127, -127])


def test_a_scale_for_each_channel() -> None:
    grid = symmetric_grid(np.array([127.0, 254.0]), symmetric(8), axis=1)
    x = np.full((3, 2), 10.0, np.float32)
    np.testing.assert_array_equal(grid.quantize(x), [[10, 5]] * 3)
    np.testing.assert_array_equal(grid.round_trip(x), x)


def test_a_scale_for_each_group() -> None:
    limits = np.array([[7.0, 14.0, 21.0], [28.0, 35.0, 42.0]])  # (k / 2, n)
    grid = symmetric_grid(limits, symmetric(4), axis=0, group=2)
    x = np.full((4, 3), 6.0, np.float32)
    np.testing.assert_array_equal(
        grid.quantize(x), [[6, 3, 2], [6, 3, 2], [2, 1, 1], [2, 1, 1]]
    )  # 6 / 4 = 1.5 to even, 6 / 5, 6 / 6


def test_a_tensor_of_zeros_has_scale_1() -> None:
    for grid in (affine_grid(0.0, 0.0, unsigned(8)), symmetric_grid(np.zeros(()), symmetric(8))):
        assert float(grid.scale) == 1.0
        np.testing.assert_array_equal(grid.round_trip(np.zeros(3)), np.zeros(3))


def test_a_range_off_zero_is_widened_to_zero() -> None:
    above, below = affine_grid(2.0, 5.1, unsigned(8)), affine_grid(-5.1, -2.0, unsigned(8))
    assert (int(above.zero_point), int(below.zero_point)) == (0, 255)
    assert float(above.scale) == float(below.scale) == np.float32(5.1 / 255)


def test_relax_computes_the_same_bits(build: Build, run: Run) -> None:
    grid = affine_grid(-1.3, 2.9, unsigned(8))
    how = forms.Affine(scale=grid.scale, zero_point=grid.zero_point, dtype="uint8")
    x = np.random.default_rng(0).uniform(-2, 4, (4, 50)).astype("float32")
    x[0] = (np.arange(50) + 0.5) * grid.scale  # halves, as nearly as float32 holds them

    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        return bb.emit(forms.dequantize(bb.emit(forms.quantize(x, how)), how))

    np.testing.assert_array_equal(run(build(body, (4, 50)), x)[0], grid.round_trip(x))


def test_levels_hold_what_clip_gives() -> None:
    grid = Grid(
        levels=signed(4), scale=np.float32(1).reshape(()), zero_point=np.int32(2).reshape(())
    )
    np.testing.assert_array_equal(grid.quantize(np.array([-50.0, -3, 0, 50])), [-8, -1, 2, 7])
