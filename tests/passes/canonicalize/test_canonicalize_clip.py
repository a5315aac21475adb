"""Mirror of passes/canonicalize/canonicalize_clip.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.passes.canonicalize.canonicalize_clip import CanonicalizeClip
from tvmopt.report import Report

Build = Callable[..., tvm.IRModule]
Run = Callable[..., list[np.ndarray]]
Emit = Callable[[relax.Expr], relax.Expr]

op = relax.op


def _number(value: float) -> relax.Expr:
    return relax.const(np.float32(value))


_SPELLINGS: dict[str, tuple[Callable[[Emit, relax.Expr], relax.Expr], str]] = {
    "maximum": (lambda _e, x: op.maximum(x, _number(0)), "relax.nn.relu"),
    "maximum reversed": (lambda _e, x: op.maximum(_number(0), x), "relax.nn.relu"),
    "half open clip": (lambda _e, x: op.clip(x, 0.0, np.inf), "relax.nn.relu"),
    "relu6": (lambda e, x: op.minimum(e(op.nn.relu(x)), _number(6)), "relax.clip"),
    "min of max": (
        lambda e, x: op.minimum(e(op.maximum(x, _number(-1))), _number(2)),
        "relax.clip",
    ),
    "max of min": (
        lambda e, x: op.maximum(e(op.minimum(x, _number(2))), _number(-1)),
        "relax.clip",
    ),
    "clip of clip": (lambda e, x: op.clip(e(op.clip(x, -3.0, 1.0)), -1.0, 2.0), "relax.clip"),
    "leaky relu": (
        lambda e, x: op.maximum(e(op.multiply(x, _number(0.25))), x),
        "relax.nn.leakyrelu",
    ),
}
_X = np.array([-np.inf, -4, -2, -1, -0.5, -0.0, 0.0, 0.5, 1, 2, 5, 7, np.inf], "float32")


@pytest.mark.parametrize("name", _SPELLINGS)
def test_spelling_becomes_one_operator(build: Build, run: Run, name: str) -> None:
    make, operator = _SPELLINGS[name]
    before = build(lambda bb, x: bb.emit(make(bb.emit, x), "bound"), _X.shape)
    report = Report()

    after = CanonicalizeClip(report)(before)

    assert [call.op.name for call in ir.calls(after)] == [operator]
    spelled = operator.removeprefix("relax.")
    assert report.decisions[-1].reason == f"it is another spelling of {spelled}"
    np.testing.assert_array_equal(run(after, _X)[0], run(before, _X)[0])


_OTHERS: dict[str, Callable[[Emit, relax.Expr], relax.Expr]] = {
    "relu": lambda _e, x: op.nn.relu(x),
    "clip": lambda _e, x: op.clip(x, 0.0, 6.0),
    "one bound": lambda _e, x: op.minimum(x, _number(2)),
    "a bound for each": lambda _e, x: op.maximum(x, relax.const(np.arange(13, dtype="float32"))),
    "a bound that broadcasts": lambda _e, x: op.maximum(
        x, relax.const(np.zeros((1, 1), "float32"))
    ),
    "not a number": lambda _e, x: op.maximum(x, _number(np.nan)),
    "growing slope": lambda e, x: op.maximum(e(op.multiply(x, _number(2))), x),
    "crossed bounds": lambda e, x: op.minimum(e(op.maximum(x, _number(3))), _number(1)),
}


@pytest.mark.parametrize("name", _OTHERS)
def test_what_is_something_else_stays(build: Build, name: str) -> None:
    before = build(lambda bb, x: bb.emit(_OTHERS[name](bb.emit, x)), _X.shape)
    report = Report()
    tvm.ir.assert_structural_equal(CanonicalizeClip(report)(before), before)
    assert report.decisions == []


def test_a_bound_that_is_read_twice_stays(build: Build) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        low = bb.emit(op.nn.relu(x))
        return relax.Tuple([bb.emit(op.minimum(low, _number(6))), low])

    before = build(body, (4,))
    tvm.ir.assert_structural_equal(CanonicalizeClip(Report())(before), before)


def test_input_module_is_not_changed(build: Build) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        return bb.emit(op.maximum(x, _number(0)))

    before = build(body, (4,))
    CanonicalizeClip(Report())(before)
    tvm.ir.assert_structural_equal(before, build(body, (4,)))
