"""Mirror of passes/canonicalize/eliminate_identities.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.passes.canonicalize.eliminate_identities import EliminateIdentities
from tvmopt.report import Report

Build = Callable[..., tvm.IRModule]
Run = Callable[..., list[np.ndarray]]
Counts = Callable[[tvm.IRModule], Counter[str]]

op = relax.op
_ONES = relax.const(np.ones((2, 3), "float32"))


def _number(value: float) -> relax.Expr:
    return relax.const(np.float32(value))


_IDENTITIES: dict[str, Callable[[relax.Expr], relax.Expr]] = {
    "add of minus zero": lambda x: op.add(x, _number(-0.0)),
    "subtract": lambda x: op.subtract(x, _number(0.0)),
    "multiply": lambda x: op.multiply(_ONES, x),
    "divide": lambda x: op.divide(x, _number(1.0)),
    "power": lambda x: op.power(x, _number(1.0)),
    "astype": lambda x: op.astype(x, "float32"),
    "reshape": lambda x: op.reshape(x, (2, 3)),
    "permute_dims": lambda x: op.permute_dims(x, [0, 1]),
    "broadcast_to": lambda x: op.broadcast_to(x, (2, 3)),
    "pad": lambda x: op.nn.pad(x, (0, 0, 0, 0)),
    "tile": lambda x: op.tile(x, (1, 1)),
    "concat": lambda x: op.concat([x], 0),
    "slice": lambda x: op.strided_slice(x, [1], [0], [3], [1]),
    "split": lambda x: op.split(x, 1, axis=0),
    "slice beyond the end": lambda x: op.strided_slice(x, [0], [0], [9]),
}


@pytest.mark.parametrize("name", _IDENTITIES)
def test_identity_is_taken_out(build: Build, name: str) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        y = bb.emit(op.exp(x), "before")
        return bb.emit(op.sin(bb.emit(_IDENTITIES[name](y), "same")), "after")

    def without(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        return bb.emit(op.sin(bb.emit(op.exp(x), "before")), "after")

    report = Report()
    after = EliminateIdentities(report)(build(body, (2, 3)))

    tvm.ir.assert_structural_equal(after, build(without, (2, 3)))
    assert [(d.site, d.applied) for d in report.decisions] == [("same", True)]
    assert report.decisions[0].reason.endswith("changes nothing")


_OTHERS: dict[str, Callable[[relax.Expr], relax.Expr]] = {
    "adding zero turns -0.0 into 0.0": lambda x: op.add(x, _number(0.0)),
    "subtracting -0.0 turns -0.0 into 0.0": lambda x: op.subtract(x, _number(-0.0)),
    "zero minus x": lambda x: op.subtract(_number(0.0), x),
    "one over x": lambda x: op.divide(_number(1.0), x),
    "nearly one": lambda x: op.multiply(x, _number(1.0000001)),
    "a one that broadcasts": lambda x: op.multiply(x, relax.const(np.ones((4, 2, 3), "float32"))),
    "another type": lambda x: op.astype(x, "float16"),
    "a real transposition": lambda x: op.permute_dims(x, [1, 0]),
    "every second": lambda x: op.strided_slice(x, [1], [0], [3], [2]),
    "backwards": lambda x: op.strided_slice(x, [1], [2], [-4], [-1]),
    "a wider pad": lambda x: op.nn.pad(x, (0, 1, 0, 0)),
}


@pytest.mark.parametrize("name", _OTHERS)
def test_what_is_no_identity_stays(build: Build, name: str) -> None:
    before, report = build(lambda bb, x: bb.emit(_OTHERS[name](x)), (2, 3)), Report()
    tvm.ir.assert_structural_equal(EliminateIdentities(report)(before), before)
    assert report.decisions == []


def test_dropout_is_taken_out(build: Build, counts: Counts) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        return bb.emit(op.exp(bb.emit(relax.TupleGetItem(bb.emit(op.nn.dropout(x)), 0))))

    assert counts(EliminateIdentities(Report())(build(body, (2, 3)))) == {"exp": 1}


def test_moves_of_moves_become_one(build: Build, run: Run, counts: Counts) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        y = bb.emit(op.permute_dims(bb.emit(op.permute_dims(x, [1, 2, 0])), [2, 1, 0]))
        return bb.emit(op.reshape(bb.emit(op.squeeze(bb.emit(op.reshape(y, (1, 6, 4))))), (3, 8)))

    before = build(body, (2, 3, 4))
    after = EliminateIdentities(Report())(before)

    assert counts(after) == {"permute_dims": 1, "reshape": 1}
    x = np.arange(24, dtype="float32").reshape(2, 3, 4)
    np.testing.assert_array_equal(run(after, x)[0], run(before, x)[0])


def test_transposition_there_and_back_disappears(build: Build, counts: Counts) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        y = bb.emit(op.permute_dims(bb.emit(op.permute_dims(x, [1, 0])), [1, 0]))
        return bb.emit(op.exp(y))

    twice = EliminateIdentities(Report())(EliminateIdentities(Report())(build(body, (2, 3))))
    assert counts(twice) == {"exp": 1}


def test_input_module_is_not_changed(build: Build) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        return bb.emit(op.multiply(x, _ONES))

    before = build(body, (2, 3))
    EliminateIdentities(Report())(before)
    tvm.ir.assert_structural_equal(before, build(body, (2, 3)))


@pytest.mark.parametrize("dtype", ["int64", "uint8", "float32"])
def test_an_integer_less_itself_is_zero(build: Build, run: Run, dtype: str) -> None:
    before = build(lambda bb, x: op.add(bb.emit(op.subtract(x, x)), x), (2, 3), dtype=dtype)
    after = EliminateIdentities(Report())(before)
    # A float may be infinite, and infinity less infinity is no number.
    assert any(ir.is_call_to(c, "relax.subtract") for c in ir.calls(after)) == (dtype == "float32")
    x = np.arange(6).reshape(2, 3).astype(dtype)
    np.testing.assert_array_equal(run(after, x)[0], x)
