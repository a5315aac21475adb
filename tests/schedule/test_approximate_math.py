"""Mirror of tvmopt/schedule/approximate_math.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tvm import relax, tirx

from tvmopt.schedule.approximate_math import approximate_math

R = relax.op
CALLS = {"exp": R.exp, "log": R.log, "tanh": R.tanh, "erf": R.erf, "sigmoid": R.sigmoid}


def _func(rest: Any, build: Any, dtype: str) -> tirx.PrimFunc:
    mod = rest.fused(build, np.ones((3, 4), dtype))
    return next(f for _, f in mod.functions_items() if isinstance(f, tirx.PrimFunc))


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_calls_are_replaced(rest: Any, name: str, dtype: str) -> None:
    before = _func(rest, CALLS[name], dtype)
    assert f"T.{name}(" in before.script()
    after = approximate_math(before).script()
    assert f"T.{name}(" not in after
    assert f"T.{name}(" in before.script()  # the function given stays as it was


@pytest.mark.parametrize("name", CALLS)
def test_float64_keeps_its_precision(rest: Any, name: str) -> None:
    before = _func(rest, CALLS[name], "float64")
    assert approximate_math(before).same_as(before)


@pytest.mark.parametrize(
    ("exponent", "call"), [(0.5, "T.sqrt"), (2.0, None), (3.0, None), (4.0, None), (2.5, "T.pow")]
)
def test_powers(rest: Any, exponent: float, call: str | None) -> None:
    func = _func(rest, lambda x: R.power(x, relax.const(np.float32(exponent))), "float32")
    text = approximate_math(func).script()
    assert ("T.pow(" in text or "T.sqrt(" in text) == (call is not None)
    assert call is None or call in text


def test_half_precision_is_computed_in_float32(rest: Any) -> None:
    x = np.linspace(-9, 9, 77).astype(np.float16)
    got = rest.run(R.sigmoid, x).astype(np.float64)
    wanted = 1 / (1 + np.exp(-x.astype(np.float64)))
    # One rounding to float16, 2**-11, and the float32 error before it.
    assert (np.abs(got - wanted) <= (2.0**-11 + 1e-6) * wanted + 6e-8).all()
