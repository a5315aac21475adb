"""Mirror of passes/canonicalize/center_weights.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from tvmopt import forms, ir
from tvmopt.forms import Affine
from tvmopt.passes.canonicalize.center_weights import CenterWeights, center
from tvmopt.report import Report

Build = Callable[..., tvm.IRModule]
Run = Callable[..., list[np.ndarray]]


@settings(derandomize=True)
@given(
    codes=st.lists(st.integers(0, 255), min_size=1, max_size=8),
    zero=st.integers(0, 255),
    signed=st.booleans(),
)
def test_differences_are_kept(codes: list[int], zero: int, signed: bool) -> None:
    shift = 128 if signed else 0
    old = (np.array(codes) - shift).astype("int8" if signed else "uint8")
    new, point = center(old, np.array([zero - shift], np.int32))
    assert new.dtype == np.int8
    np.testing.assert_array_equal(new.astype(int) - point, np.array(codes) - zero)
    fits = all(-128 <= c - zero <= 127 for c in codes)
    assert (not point.any()) == (fits or zero == 128)


def _center(mod: tvm.IRModule) -> tvm.IRModule:
    return CenterWeights(Report())(mod)


def _find(mod: tvm.IRModule) -> forms.Stored | None:
    """Return the stored operand of the module's product."""
    values = dict(ir.bindings(mod["main"]))
    (product,) = (call for call in ir.calls(mod) if ir.is_call_to(call, "relax.matmul"))
    return forms.match_stored(product.args[1], lambda e: values.get(e, e))


@pytest.mark.parametrize(("zero", "left"), [(128, 0), (100, -28)])
def test_an_unsigned_weight_becomes_signed(build: Build, run: Run, zero: int, left: int) -> None:
    codes = np.array([[0, 255, 3], [128, 7, 200]], np.uint8)
    how = Affine(
        scale=np.array([0.1, 0.2, 0.3], "f4"),
        zero_point=np.full(3, zero, "i4"),
        dtype="uint8",
        axis=1,
    )

    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        w = forms.Dequantized(codes=codes, how=how).build(bb.emit, "w")
        return relax.op.matmul(x, w)

    before = build(body, (2, 2))
    after = _center(before)
    found = _find(after)
    assert isinstance(found, forms.Dequantized)
    assert found.how.dtype == "int8"
    assert np.all(found.how.zero_point == left)
    x = np.eye(2, dtype=np.float32)
    np.testing.assert_array_equal(run(after, x)[0], run(before, x)[0])
    tvm.ir.assert_structural_equal(_center(after), after)


@pytest.mark.parametrize("zero", [8.0, "several"])
def test_groups_lose_a_zero_point_they_share(build: Build, run: Run, zero: object) -> None:
    codes = np.random.default_rng(0).integers(0, 16, (2, 4, 3), "uint8")
    points = np.full((2, 1, 3), 8.0, "f4") if zero == 8.0 else np.arange(6.0, dtype="f4")
    stored = forms.Grouped(
        codes=codes, scale=np.full((2, 1, 3), 0.7, "f4"), zero=points.reshape(2, 1, 3), axis=0
    )
    before = build(lambda bb, x: relax.op.matmul(x, stored.build(bb.emit, "w")), (2, 8))
    after = _center(before)
    found = _find(after)
    assert isinstance(found, forms.Grouped)
    assert found.codes.dtype == np.int8
    # Codes of four bits stay within four bits.
    assert np.ptp(found.codes) < 16
    assert (found.zero is None) == (zero == 8.0)
    x = np.eye(2, 8, dtype=np.float32)
    np.testing.assert_array_equal(run(after, x)[0], run(before, x)[0])


@pytest.mark.parametrize("zero", [128, 130])
def test_the_weight_of_an_integer_product(build: Build, run: Run, zero: int) -> None:
    codes = np.array([[0, 255, 3], [128, 7, 200]], np.uint8)

    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        w = forms.center(relax.const(codes), relax.const(np.uint8(zero)), bb.emit, "w")
        return relax.op.matmul(x, w)

    before = build(body, (2, 2), dtype="int32")
    after = _center(before)
    assert sum(ir.is_call_to(c, "relax.subtract") for c in ir.calls(after)) == (zero != 128)
    casts = [c for c in ir.calls(after) if ir.is_call_to(c, "relax.astype")]
    assert [ir.dtype(c.args[0]) for c in casts] == ["int8"]
    x = np.array([[1, 0], [-2, 3]], np.int32)
    np.testing.assert_array_equal(run(after, x)[0], run(before, x)[0])
    tvm.ir.assert_structural_equal(_center(after), after)
