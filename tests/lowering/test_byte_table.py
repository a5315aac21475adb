"""Mirror of tvmopt/lowering/byte_table.py."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special

from tvmopt.forms import Affine
from tvmopt.kernels.epilogue import OPS
from tvmopt.lowering.byte_table import FUNCTIONS, byte_table
from tvmopt.lowering.program import SUM, Program


def affine(scale: float, zero: int, dtype: str = "uint8") -> Affine:
    return Affine(scale=np.float32(scale), zero_point=np.int32(zero), dtype=dtype)


def chain(*steps: tuple[str, tuple[float | str, ...]], to: Affine) -> Program:
    return Program([], list(steps), to)


def test_every_step_of_a_program_has_a_function() -> None:
    # "scale" is what requantization makes of "mul"; it never stands in a program over reals.
    assert set(FUNCTIONS) == set(OPS) - {"scale"}


def test_a_half_goes_to_the_even_integer() -> None:
    table = byte_table(affine(1.0, 0), chain(to=affine(2.0, 0)))
    assert table[:8].tolist() == [0, 0, 1, 2, 2, 2, 3, 4]


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_the_entry_of_a_byte_is_that_of_the_integer_it_stands_for(dtype: str) -> None:
    how = affine(1.0, 0, dtype)
    to = affine(1.0, 0, "int8")
    codes = np.arange(256).astype(np.uint8).view(dtype).astype(int)
    table = byte_table(how, chain(("mul", (SUM, -1.0)), to=to))
    assert table.dtype == np.int8
    assert np.array_equal(table, np.clip(-codes, -128, 127))


def test_steps_are_rounded_to_float32_one_by_one() -> None:
    # (x + 2**24) - 2**24 loses odd numbers in float32 and none in float64.
    steps = (("add", (SUM, 2.0**24)), ("sub", ("step 0", 2.0**24)))
    table = byte_table(affine(1.0, 0), chain(*steps, to=affine(1.0, 0)))
    exact = (np.arange(256).astype(np.float32) + np.float32(2**24)) - np.float32(2**24)
    assert np.array_equal(table, np.clip(exact, 0, 255))


def test_values_are_read_more_than_once() -> None:
    steps = (("sigmoid", (SUM,)), ("mul", (SUM, "step 0")))
    table = byte_table(affine(0.05, 128), chain(*steps, to=affine(0.03, 10)))
    x = (np.arange(256) - 128) * np.float64(np.float32(0.05))
    exact = x * scipy.special.expit(x) / np.float64(np.float32(0.03)) + 10
    assert np.abs(table - np.clip(exact, 0, 255)).max() <= 0.5 + 1e-4


def test_no_number_and_infinities_become_bounds() -> None:
    table = byte_table(affine(1.0, 3), chain(("log", (SUM,)), to=affine(0.1, 100)))
    assert (table[:4] == 0).all()  # the logarithms of -3 to 0
    table = byte_table(affine(1.0, 0), chain(("div", (1.0, SUM)), to=affine(0.1, 100)))
    assert table[0] == 255
