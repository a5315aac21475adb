"""Mirror of passes/quantize/store_weight.py."""

from __future__ import annotations

import numpy as np
import pytest

from tvmopt import forms
from tvmopt.passes.quantize.grid import signed, symmetric
from tvmopt.passes.quantize.store_weight import affine_of, as_half, to_nearest, with_grid
from tvmopt.passes.quantize.weight_grid import WeightChoice, weight_grid

WEIGHT = np.random.default_rng(0).normal(size=(12, 6)).astype("float32") + np.float32(0.3)


@pytest.mark.parametrize("levels", [symmetric(4), signed(4)])
@pytest.mark.parametrize(("axis", "group"), [(None, None), (1, None), (0, 4)])
def test_form_holds_the_points_of_the_grid(levels: object, axis: object, group: object) -> None:
    grid = weight_grid(WEIGHT, WeightChoice(levels=levels), axis=axis, group=group)
    form = with_grid(to_nearest("", WEIGHT, grid), grid)
    assert isinstance(form, forms.Dequantized if group is None else forms.Grouped)
    assert form.shape == WEIGHT.shape
    # The same subtraction and product in either; integers below 2^24 are exact in float32.
    np.testing.assert_array_equal(form.value(), grid.round_trip(WEIGHT))


def test_symmetric_groups_have_no_zero_points() -> None:
    grids = {
        levels: weight_grid(WEIGHT, WeightChoice(levels=levels), axis=0, group=4)
        for levels in (symmetric(4), signed(4))
    }
    forms_of = {k: with_grid(to_nearest("", WEIGHT, g), g) for k, g in grids.items()}
    assert forms_of[symmetric(4)].zero is None
    assert forms_of[signed(4)].zero.shape == (3, 1, 6)


def test_affine_of_one_scale() -> None:
    how = affine_of(weight_grid(WEIGHT, WeightChoice(levels=symmetric(8))))
    assert (how.scale.shape, how.dtype, int(how.zero_point)) == ((), "int8", 0)


@pytest.mark.parametrize(("dtype", "digits"), [("float16", 11), ("bfloat16", 8)])
def test_halves_are_rounded_to_nearest(dtype: str, digits: int) -> None:
    form = as_half(WEIGHT, dtype)
    assert isinstance(form, forms.Cast)
    assert form.values.dtype.itemsize == 2
    assert (np.abs(form.value() - WEIGHT) <= np.abs(WEIGHT) * 2.0**-digits).all()


def test_halves_do_not_overflow_in_silence() -> None:
    large = np.array([1.0, -7e4], np.float32)
    assert as_half(large, "float16") == "a weight of 7e+04 does not fit float16"
    assert isinstance(as_half(large, "bfloat16"), forms.Cast)
