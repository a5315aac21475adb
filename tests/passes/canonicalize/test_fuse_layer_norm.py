"""Mirror of passes/canonicalize/fuse_layer_norm.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.passes.canonicalize.fuse_layer_norm import FuseLayerNorm
from tvmopt.report import Report

Build = Callable[..., tvm.IRModule]
Run = Callable[..., list[np.ndarray]]
Counts = Callable[[tvm.IRModule], Counter[str]]
Emit = Callable[[relax.Expr], relax.Expr]
Body = Callable[[relax.BlockBuilder, relax.Expr], relax.Expr]

op = relax.op
EPSILON = 2.0**-10


def _const(array: object) -> relax.Expr:
    return relax.const(np.asarray(array, "float32"))


def _norm(
    *,
    axes: tuple[int, ...] = (-1,),
    root: str = "sqrt",
    square: str = "multiply",
    gamma: np.ndarray | None = None,
    beta: np.ndarray | None = None,
) -> Body:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        e = bb.emit
        d = e(op.subtract(x, e(op.mean(x, axes, keepdims=True))))
        squared = e(op.multiply(d, d) if square == "multiply" else op.power(d, _const(2.0)))
        v = e(op.add(e(op.mean(squared, axes, keepdims=True)), _const(EPSILON)))
        if root == "sqrt":
            y = op.divide(d, e(op.sqrt(v)))
        elif root == "rsqrt":
            y = op.multiply(d, e(op.rsqrt(v)))
        else:
            y = op.multiply(e(op.divide(_const(1.0), e(op.sqrt(v)))), d)
        y = e(y, "normalized")
        if gamma is not None:
            y = e(op.multiply(_const(gamma), y), "scaled")
        return y if beta is None else e(op.add(y, _const(beta)), "shifted")

    return body


def _reference(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    x = x.astype("float64")
    d = x - x.mean(axes, keepdims=True)
    return d / np.sqrt((d * d).mean(axes, keepdims=True) + EPSILON)


@pytest.mark.parametrize(
    ("body", "axes", "gamma", "beta"),
    [
        (_norm(), (-1,), 1.0, 0.0),
        (_norm(square="power", root="rsqrt"), (-1,), 1.0, 0.0),
        (_norm(root="reciprocal", axes=(1, 2)), (1, 2), 1.0, 0.0),
        (_norm(gamma=np.arange(5.0), beta=np.ones((1, 1, 5))), (-1,), np.arange(5.0), 1.0),
        (_norm(gamma=np.full((), 2.0), beta=np.arange(5.0)), (-1,), 2.0, np.arange(5.0)),
        (
            _norm(axes=(1,), gamma=np.arange(4.0)[:, None]),
            (1,),
            np.arange(4.0)[:, None],
            0.0,
        ),
    ],
)
def test_spelled_out_norm_becomes_layer_norm(
    build: Build,
    run: Run,
    counts: Counts,
    body: Body,
    axes: tuple[int, ...],
    gamma: np.ndarray | float,
    beta: np.ndarray | float,
) -> None:
    after = FuseLayerNorm(Report())(build(body, (3, 4, 5)))

    assert counts(after) == {"nn.layer_norm": 1}
    x = np.random.default_rng(0).standard_normal((3, 4, 5)).astype("float32")
    expected = _reference(x, axes) * gamma + beta
    # TVM's variance is E[x^2] - E[x]^2 over at most 20 numbers of order 1: 20 roundings of the sum,
    # over a variance of at least 0.05 here; the result is at most 4 * 4.
    assert np.min(x.var(axes)) > 0.05
    np.testing.assert_allclose(run(after, x)[0], expected, rtol=0, atol=16 * 20 * 2.0**-24 / 0.05)


def test_the_report_and_the_names_follow_the_last_operator(build: Build) -> None:
    report = Report()
    body = _norm(gamma=np.arange(5.0), beta=np.arange(5.0))
    after = FuseLayerNorm(report)(build(body, (3, 5)))
    assert [d.site for d in report.decisions] == ["normalized", "scaled", "shifted"]
    assert next(var.name for var, _ in ir.bindings(after["main"])) == "shifted"
    call = next(ir.calls(after))
    assert call.attrs.epsilon == EPSILON


def _different_axes(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
    e = bb.emit
    d = e(op.subtract(x, e(op.mean(x, [0], keepdims=True))))
    v = e(op.add(e(op.mean(e(op.multiply(d, d)), [1], keepdims=True)), _const(EPSILON)))
    return e(op.divide(d, e(op.sqrt(v))))


def _root_mean_square(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
    e = bb.emit
    v = e(op.add(e(op.mean(e(op.multiply(x, x)), [1], keepdims=True)), _const(EPSILON)))
    return e(op.divide(x, e(op.sqrt(v))))


def _unshifted_softmax(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
    exp = bb.emit(op.exp(x))
    return bb.emit(op.divide(exp, bb.emit(op.sum(exp, [1], keepdims=True))))


@pytest.mark.parametrize("body", [_different_axes, _root_mean_square, _unshifted_softmax])
def test_what_is_something_else_stays(build: Build, body: Body) -> None:
    before, report = build(body, (3, 5)), Report()
    tvm.ir.assert_structural_equal(FuseLayerNorm(report)(before), before)
    assert report.decisions == []


def test_factor_along_other_axes_stays_behind_the_norm(build: Build, counts: Counts) -> None:
    after = FuseLayerNorm(Report())(build(_norm(gamma=np.arange(3.0)[:, None]), (3, 5)))
    assert counts(after) == {"nn.layer_norm": 1, "multiply": 1}


def test_spelled_out_softmax_becomes_softmax(build: Build, run: Run, counts: Counts) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        top = bb.emit(op.max(x, [-2], keepdims=True))
        exp = bb.emit(op.exp(bb.emit(op.subtract(x, top))))
        return bb.emit(op.divide(exp, bb.emit(op.sum(exp, [1], keepdims=True))))

    after = FuseLayerNorm(Report())(build(body, (2, 6, 3)))

    assert counts(after) == {"nn.softmax": 1}
    x = np.random.default_rng(0).standard_normal((2, 6, 3)).astype("float32")
    exp = np.exp(x.astype("float64"))
    # exp good to 4 units in the last place, a sum of 6, a division; values up to 1.
    atol = (4 + 6 + 1) * 2.0**-23
    expected = exp / exp.sum(1, keepdims=True)
    np.testing.assert_allclose(run(after, x)[0], expected, rtol=0, atol=atol)


def test_input_module_is_not_changed(build: Build) -> None:
    before = build(_norm(gamma=np.arange(5.0)), (3, 5))
    FuseLayerNorm(Report())(before)
    tvm.ir.assert_structural_equal(before, build(_norm(gamma=np.arange(5.0)), (3, 5)))
