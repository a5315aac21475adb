"""Mirror of passes/canonicalize/canonicalize_matmul.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.passes.canonicalize.canonicalize_matmul import CanonicalizeMatmul
from tvmopt.report import Report

Build = Callable[..., tvm.IRModule]
Run = Callable[..., list[np.ndarray]]
Integers = Callable[..., np.ndarray]


@pytest.mark.parametrize(
    ("data", "weight"),
    [
        ((2, 3, 4), (1, 4, 5)),
        ((2, 2, 3, 4), (1, 1, 4, 5)),
        ((4,), (4, 5)),
        ((3, 4), (4,)),
        ((2, 3, 4), (4,)),
        ((4,), (4,)),
    ],
)
def test_constant_becomes_a_matrix(
    build: Build, run: Run, integers: Integers, data: tuple[int, ...], weight: tuple[int, ...]
) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        return bb.emit(relax.op.matmul(x, relax.const(integers(1, *weight))), "product")

    before, report = build(body, data), Report()
    after = CanonicalizeMatmul(report)(before)

    (call,) = [c for c in ir.calls(after) if ir.is_call_to(c, "relax.matmul")]
    assert len(ir.shape(call.args[1])) == 2
    assert len(ir.shape(call.args[0])) >= 2
    assert [(d.site, d.applied) for d in report.decisions] == [("product", True)]
    x = integers(0, *data)
    np.testing.assert_array_equal(run(after, x)[0], run(before, x)[0])


@pytest.mark.parametrize(
    ("data", "weight"),
    [((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((2, 3, 4), (2, 4, 5)), ((3, 4), (1, 4, 5))],
)
def test_other_products_stay(
    build: Build, integers: Integers, data: tuple[int, ...], weight: tuple[int, ...]
) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        return bb.emit(relax.op.matmul(x, relax.const(integers(1, *weight))))

    before, report = build(body, data), Report()
    tvm.ir.assert_structural_equal(CanonicalizeMatmul(report)(before), before)
    assert report.decisions == []


def test_input_module_is_not_changed(build: Build, integers: Integers) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        return bb.emit(relax.op.matmul(x, relax.const(integers(1, 1, 4, 5))))

    before = build(body, (2, 3, 4))
    CanonicalizeMatmul(Report())(before)
    tvm.ir.assert_structural_equal(before, build(body, (2, 3, 4)))
