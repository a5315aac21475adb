"""Mirror of tvmopt/forms/rows.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm
from tvm import relax

from tvmopt import forms
from tvmopt.forms import Define


def _body(emit: forms.Emit, x: relax.Var) -> relax.Expr:
    return forms.quantize_rows(x, emit, "x_rows")


def test_the_builders_rows_are_matched(
    function: Callable[..., tvm.IRModule], define: Callable[[tvm.IRModule], Define]
) -> None:
    mod = function(_body, (2, 3, 8))
    found = forms.match_rows(mod["main"].body.body, define(mod))
    assert found is not None
    assert found.x.same_as(mod["main"].params[0])
    assert (found.codes.ty.dtype, found.scale.ty.dtype) == ("int8", "float32")
    assert [int(d) for d in found.scale.ty.shape] == [2, 3, 1]


def test_each_row_has_its_own_scale(function: Callable[..., tvm.IRModule]) -> None:
    x = np.random.default_rng(3).standard_normal((3, 16), dtype=np.float32)
    x[1] *= 1000.0
    x[2] = 0.0
    mod = function(_body, x.shape)
    machine = relax.VirtualMachine(tvm.compile(mod, target="llvm"), tvm.cpu())
    result = machine["main"](tvm.runtime.tensor(x)).numpy()
    scale = np.abs(x).max(-1, keepdims=True) / 127.0
    # Half a step, and the rounding of the division, of the step and of the product.
    assert np.all(np.abs(result - x) <= scale * (0.5 + 127 * 3 * 2.0**-24))
    assert np.all(result[2] == 0.0)


def test_other_scales_are_no_rows(
    function: Callable[..., tvm.IRModule], define: Callable[[tvm.IRModule], Define]
) -> None:
    def columns(emit: forms.Emit, x: relax.Var) -> relax.Expr:
        op = relax.op
        largest = emit(op.max(emit(op.abs(x), "a"), axis=0, keepdims=True), "m")
        peak = emit(op.maximum(largest, relax.const(np.float32(2.0**-100))), "p")
        scale = emit(op.multiply(peak, relax.const(np.float32(1 / 127))), "s")
        units = emit(op.round(emit(op.divide(x, scale), "u")), "r")
        codes = emit(op.astype(emit(op.clip(units, -127, 127), "c"), "int8"), "q")
        return op.multiply(emit(op.astype(codes, "float32"), "f"), scale)

    mod = function(columns, (4, 4))
    assert forms.match_rows(mod["main"].body.body, define(mod)) is None
    mod = function(lambda _emit, x: relax.op.multiply(x, x), (4, 4))
    assert forms.match_rows(mod["main"].body.body, define(mod)) is None
