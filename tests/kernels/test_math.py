"""Mirror of tvmopt/kernels/math.py.

Every float32 bit pattern is one of 2**32; the tests take each 997th (a prime, so that all
mantissas and exponents come up) besides the special values, against NumPy and SciPy in float64.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.special
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T  # noqa: N812

from tvmopt.kernels import math

SPECIAL = np.array(
    [0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 1e-45, -1e-45, 1.17549435e-38, 3.4e38, -3.4e38],
    np.float32,
)
TINY = np.float64(np.finfo(np.float32).tiny)


def _every(step: int) -> np.ndarray:
    bits = np.arange(0, 1 << 32, step, dtype=np.uint64).astype(np.uint32)
    values = np.concatenate([SPECIAL, bits.view(np.float32)])
    return np.resize(values, -(-len(values) // 16) * 16)  # a multiple of the lanes


def _kernel(build: Callable[[Expr], Expr], size: int, lanes: int) -> tvm.runtime.Module:
    with IRBuilder() as ib, T.prim_func(s_tir=True):
        T.func_name("main")
        T.func_attr({"tirx.noalias": True, "global_symbol": "main"})
        x = T.arg("x", T.buffer((size,), "float32"))
        y = T.arg("y", T.buffer((size,), "float32"))
        with T.serial(size // lanes) as i:
            at = i if lanes == 1 else tirx.Ramp(i * lanes, 1, lanes)
            T.buffer_store(y, build(x[at]), [at])
    return tvm.tirx.build(ib.get(), target={"kind": "llvm"})


def _run(build: Callable[[Expr], Expr], x: np.ndarray, lanes: int = 1) -> np.ndarray:
    out = tvm.runtime.tensor(np.empty_like(x))
    _kernel(build, len(x), lanes)["main"](tvm.runtime.tensor(x), out)
    return out.numpy()


def _ulps(got: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Return the distance in units of the last place that float32 has near ``exact``."""
    step = np.spacing(np.maximum(np.abs(exact), TINY).astype(np.float32)).astype(np.float64)
    # At the top of the range and at infinity the spacing is not finite: equality decides there.
    rounded = exact.astype(np.float32)
    same = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
    with np.errstate(invalid="ignore"):  # inf - inf, where both are the same infinity
        return np.where(same, 0.0, np.abs(got.astype(np.float64) - exact) / step)


def _exact(function: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return function(x.astype(np.float64))


@pytest.mark.parametrize("lanes", [1, 8])
def test_exp_is_within_2_ulp_even_where_it_is_subnormal(lanes: int) -> None:
    x = _every(997)
    with np.errstate(over="ignore"):
        error = _ulps(_run(math.exp, x, lanes), _exact(np.exp, x))
    assert np.nanmax(error) <= 2
    assert not np.isnan(error).any()


@pytest.mark.parametrize("lanes", [1, 4])
def test_log_is_within_2_ulp_and_has_the_special_values_of_c(lanes: int) -> None:
    x = _every(997)
    got, wanted = _run(math.log, x, lanes), _exact(np.log, x)
    subnormal = (x > 0) & (x < TINY)
    wanted[subnormal] = np.log(TINY)
    error = _ulps(got, wanted)
    assert not np.isnan(error).any()
    assert error.max() <= 2


@pytest.mark.parametrize(
    ("build", "exact"), [(math.tanh, np.tanh), (math.erf, scipy.special.erf)], ids=["tanh", "erf"]
)
def test_odd_functions_are_close_bounded_and_pass_nan(
    build: Callable[[Expr], Expr], exact: Callable[[np.ndarray], np.ndarray]
) -> None:
    x = _every(997)
    got, wanted = _run(build, x), _exact(exact, x)
    assert (np.isnan(got) == np.isnan(x)).all()
    # 5e-7 of the result: the build here is for the baseline CPU, without fused multiply-add. Where
    # the result is subnormal, one spacing (1.4e-45) on top.
    assert np.nanmax(np.abs(got - wanted) - 5e-7 * np.abs(wanted)) <= 1.5e-45
    assert np.nanmax(np.abs(got)) <= 1.0


def test_sigmoid_is_within_3_ulp_of_normal_results() -> None:
    x = _every(997)
    got, wanted = _run(math.sigmoid, x), _exact(scipy.special.expit, x)
    assert (np.isnan(got) == np.isnan(x)).all()
    normal = wanted >= TINY
    assert _ulps(got[normal], wanted[normal]).max() <= 3
    assert np.nanmax(np.abs(got[~normal] - wanted[~normal])) <= TINY


def test_gelu_is_close_in_absolute_terms() -> None:
    x = _every(997)
    x = x[np.isfinite(x)]
    wide = x.astype(np.float64)
    wanted = wide / 2 * (1 + scipy.special.erf(wide / np.sqrt(2)))
    assert (np.abs(_run(math.gelu, x) - wanted) <= 4e-7 * np.maximum(np.abs(wide), 1)).all()


def test_gelu_by_tanh_is_close_in_absolute_terms() -> None:
    x = _every(997)
    # Beyond 1e12 the cube overflows; the result is x or 0 there, by the limits of tanh.
    x = x[np.abs(x) < 1e12]
    wide = x.astype(np.float64)
    wanted = wide / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)))
    assert (np.abs(_run(math.gelu_tanh, x) - wanted) <= 4e-7 * np.maximum(np.abs(wide), 1)).all()


@settings(derandomize=True, max_examples=20, deadline=None)
@given(hnp.arrays(np.float32, 16, elements=st.floats(width=32)))
def test_vectors_and_scalars_give_the_same_bits(x: np.ndarray) -> None:
    for build in (math.exp, math.log, math.tanh, math.erf, math.sigmoid, math.gelu):
        np.testing.assert_array_equal(_run(build, x, 1), _run(build, x, 16))


def test_nesting_does_not_blow_up_the_expression() -> None:
    x = tirx.Var("x", "float32")
    once = len(str(math.gelu(x)))
    assert len(str(math.gelu(math.gelu(math.gelu(x))))) < 4 * once
