"""Mirror of passes/canonicalize/fuse_activation.py and products.py."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import tvm
from scipy.special import erf
from tvm import relax

from tvmopt.passes.canonicalize.fuse_activation import FuseActivation
from tvmopt.report import Report

Build = Callable[..., tvm.IRModule]
Run = Callable[..., list[np.ndarray]]
Counts = Callable[[tvm.IRModule], Counter[str]]
Emit = Callable[[relax.Expr], relax.Expr]
Make = Callable[[Emit, relax.Expr], relax.Expr]

op = relax.op
ROOT = math.sqrt(2.0)
SLOPE = math.sqrt(2.0 / math.pi)


def _c(value: float) -> relax.Expr:
    return relax.const(np.float32(value))


def _erf_gate(e: Emit, scaled: relax.Expr) -> relax.Expr:
    return e(op.add(e(op.erf(e(scaled))), _c(1)))


def _tanh_gate(e: Emit, inner: relax.Expr) -> relax.Expr:
    return e(op.add(_c(1), e(op.tanh(e(inner)))))


def _cube(e: Emit, x: relax.Expr) -> relax.Expr:
    return e(op.multiply(e(op.multiply(x, x)), x))


_SPELLINGS: dict[str, tuple[Make, str]] = {
    "gelu, PyTorch": (
        lambda e, x: op.multiply(e(op.multiply(x, _erf_gate(e, op.divide(x, _c(ROOT))))), _c(0.5)),
        "nn.gelu",
    ),
    "gelu, half first": (
        lambda e, x: op.multiply(
            _erf_gate(e, op.multiply(_c(1 / ROOT), x)), e(op.multiply(_c(0.5), x))
        ),
        "nn.gelu",
    ),
    "gelu, half last": (
        lambda e, x: op.divide(e(op.multiply(_erf_gate(e, op.divide(x, _c(ROOT))), x)), _c(2)),
        "nn.gelu",
    ),
    "gelu_tanh, cube": (
        lambda e, x: op.multiply(
            e(op.multiply(_c(0.5), x)),
            _tanh_gate(
                e,
                op.multiply(_c(SLOPE), e(op.add(x, e(op.multiply(_c(0.044715), _cube(e, x)))))),
            ),
        ),
        "nn.gelu_tanh",
    ),
    "gelu_tanh, power": (
        lambda e, x: op.multiply(
            x,
            e(
                op.multiply(
                    _tanh_gate(
                        e,
                        op.multiply(
                            e(op.add(e(op.multiply(e(op.power(x, _c(3))), _c(0.044715))), x)),
                            _c(SLOPE),
                        ),
                    ),
                    _c(0.5),
                )
            ),
        ),
        "nn.gelu_tanh",
    ),
    "gelu_tanh, factored": (
        lambda e, x: op.multiply(
            e(op.multiply(x, _c(0.5))),
            _tanh_gate(
                e,
                op.multiply(
                    e(op.multiply(x, _c(SLOPE))),
                    e(op.add(e(op.multiply(e(op.square(x)), _c(0.044715))), _c(1))),
                ),
            ),
        ),
        "nn.gelu_tanh",
    ),
    "silu": (lambda e, x: op.multiply(x, e(op.sigmoid(x))), "nn.silu"),
    "silu reversed": (lambda e, x: op.multiply(e(op.sigmoid(x)), x), "nn.silu"),
}
_REFERENCE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "nn.gelu": lambda x: x / 2 * (1 + erf(x / ROOT)),
    "nn.gelu_tanh": lambda x: x / 2 * (1 + np.tanh(SLOPE * (x + 0.044715 * x**3))),
    "nn.silu": lambda x: x / (1 + np.exp(-x)),
}
_X = np.linspace(-6, 6, 97, dtype="float32")


@pytest.mark.parametrize("name", _SPELLINGS)
def test_spelling_becomes_its_operator(build: Build, run: Run, counts: Counts, name: str) -> None:
    make, operator = _SPELLINGS[name]
    before, report = build(lambda bb, x: bb.emit(make(bb.emit, x), "act"), _X.shape), Report()

    after = FuseActivation(report)(before)

    assert counts(after) == {operator: 1}
    kind = operator.removeprefix("nn.")
    assert [(d.site, d.reason) for d in report.decisions] == [("act", f"it ends a {kind}")]
    # TVM's own erf and tanh are good to a few times 1e-7 of 1; |x| is at most 6.
    expected = _REFERENCE[operator](_X.astype("float64"))
    np.testing.assert_allclose(run(after, _X)[0], expected, rtol=0, atol=6 * 1e-6)


_HARD_SWISHES: dict[str, Make] = {
    "divide last": lambda e, x: op.divide(
        e(op.multiply(x, e(op.clip(e(op.add(x, _c(3))), 0, 6)))), _c(6)
    ),
    "divide the gate": lambda e, x: op.multiply(
        e(op.divide(e(op.clip(e(op.add(_c(3), x)), 0, 6)), _c(6))), x
    ),
    "hard sigmoid": lambda e, x: op.multiply(
        x, e(op.clip(e(op.add(e(op.multiply(_c(1 / 6), x)), _c(0.5))), 0, 1))
    ),
}


@pytest.mark.parametrize("name", _HARD_SWISHES)
def test_hard_swish_has_one_spelling(build: Build, run: Run, counts: Counts, name: str) -> None:
    before = build(lambda bb, x: bb.emit(_HARD_SWISHES[name](bb.emit, x), "act"), _X.shape)
    after = FuseActivation(Report())(before)

    assert counts(after) == {"add": 1, "clip": 1, "multiply": 2}
    x = _X.astype("float64")
    expected = x * np.clip(x + 3, 0, 6) / 6
    # Two products of at most 36, and the rounding of 1 / 6.
    np.testing.assert_allclose(run(after, _X)[0], expected, rtol=0, atol=3 * 36 / 6 * 2.0**-23)
    tvm.ir.assert_structural_equal(FuseActivation(Report())(after), after)


_OTHERS: dict[str, Make] = {
    "another scale": lambda e, x: op.multiply(
        e(op.multiply(x, _erf_gate(e, op.divide(x, _c(1.5))))), _c(0.5)
    ),
    "gate without half": lambda e, x: op.multiply(x, _erf_gate(e, op.divide(x, _c(ROOT)))),
    "sigmoid of another": lambda e, x: op.multiply(x, e(op.sigmoid(e(op.negative(x))))),
    "wider clip": lambda e, x: op.divide(
        e(op.multiply(x, e(op.clip(e(op.add(x, _c(3))), 0, 7)))), _c(6)
    ),
    "clip from below zero": lambda e, x: op.divide(
        e(op.multiply(x, e(op.clip(e(op.add(x, _c(3))), -1, 6)))), _c(6)
    ),
    "tanh gate of a square": lambda e, x: op.multiply(
        e(op.multiply(_c(0.5), x)), _tanh_gate(e, op.multiply(_c(SLOPE), e(op.multiply(x, x))))
    ),
}


@pytest.mark.parametrize("name", _OTHERS)
def test_what_is_something_else_stays(build: Build, name: str) -> None:
    before = build(lambda bb, x: bb.emit(_OTHERS[name](bb.emit, x)), _X.shape)
    report = Report()
    tvm.ir.assert_structural_equal(FuseActivation(report)(before), before)
    assert report.decisions == []


def test_input_module_is_not_changed(build: Build) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        return bb.emit(op.multiply(x, bb.emit(op.sigmoid(x))))

    before = build(body, (4,))
    FuseActivation(Report())(before)
    tvm.ir.assert_structural_equal(before, build(body, (4,)))
