"""Mirror of passes/canonicalize/canonicalize_codes.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import forms, ir
from tvmopt.passes.canonicalize.canonicalize_codes import CanonicalizeCodes
from tvmopt.report import Report

Build = Callable[..., tvm.IRModule]
Run = Callable[..., list[np.ndarray]]
Counts = Callable[[tvm.IRModule], Counter[str]]

OP = relax.op
CODES = np.random.default_rng(3).integers(-128, 128, (4, 3), "int8")


def _canonicalize(mod: tvm.IRModule) -> tvm.IRModule:
    return CanonicalizeCodes(Report())(mod)


@pytest.mark.parametrize("shape", [(), (1, 1), (3,), (1, 3), (4, 1)])
@pytest.mark.parametrize("zero", [None, "one", "each"])
def test_scaled_codes_are_dequantized(
    build: Build, run: Run, counts: Counts, shape: tuple[int, ...], zero: str | None
) -> None:
    scale = np.random.default_rng(1).uniform(0.1, 0.9, shape).astype("f4")
    points = np.full(() if zero == "one" else shape, 5.0, "f4")

    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        wide = bb.emit(OP.astype(relax.const(CODES), "float32"))
        if zero is not None:
            wide = bb.emit(OP.subtract(wide, relax.const(points)))
        return OP.matmul(x, bb.emit(OP.multiply(wide, relax.const(scale))))

    before = build(body, (4, 4))
    after = _canonicalize(before)
    assert counts(after) == {"dequantize": 1, "matmul": 1}
    x = np.eye(4, dtype="f4")
    np.testing.assert_array_equal(run(after, x)[0], run(before, x)[0])


@pytest.mark.parametrize("kind", ["two axes", "negative", "fraction", "floats", "groups", "wider"])
def test_other_products_stay(build: Build, kind: str) -> None:
    codes = CODES.astype("f2") if kind == "floats" else CODES
    scale = np.ones((4, 3), "f4") / 3 if kind == "two axes" else np.full((3,), 0.7, "f4")
    scale[-1] = 0.1
    scale = -scale if kind == "negative" else scale
    zero = np.full(3, 0.5 if kind == "fraction" else 1.0, "f4")

    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        if kind == "groups":
            w = forms.Grouped(
                codes=CODES.reshape(2, 2, 3), scale=scale.reshape(1, 1, 3), zero=None, axis=0
            ).build(bb.emit, "w")
            return OP.matmul(x, w)
        if kind == "wider":
            codes_ = bb.emit(OP.astype(relax.const(CODES[:1]), "float32"))
            return OP.matmul(x, bb.emit(OP.multiply(codes_, relax.const(np.ones((4, 1), "f4")))))
        wide = bb.emit(OP.astype(relax.const(codes), "float32"))
        wide = bb.emit(OP.subtract(wide, relax.const(zero)))
        return OP.matmul(x, bb.emit(OP.multiply(wide, relax.const(scale))))

    before = build(body, (4, 4))
    tvm.ir.assert_structural_equal(_canonicalize(before), before)


def test_data_that_is_scaled_stays(build: Build) -> None:
    def body(bb: relax.BlockBuilder, q: relax.Expr) -> relax.Expr:
        return OP.multiply(bb.emit(OP.astype(q, "float32")), relax.const(np.float32(0.5)))

    before = build(body, (2, 3), dtype="int8")
    tvm.ir.assert_structural_equal(_canonicalize(before), before)
    assert not any(ir.is_call_to(call, "relax.dequantize") for call in ir.calls(before))
