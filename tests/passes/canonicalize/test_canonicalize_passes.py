"""The passes of passes/canonicalize in the order in which they run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.passes.canonicalize import canonicalize_passes
from tvmopt.report import Report

Build = Callable[..., tvm.IRModule]
Run = Callable[..., list[np.ndarray]]
Counts = Callable[[tvm.IRModule], Counter[str]]
Integers = Callable[..., np.ndarray]

op = relax.op


def _canonicalize(mod: tvm.IRModule) -> tvm.IRModule:
    for one in canonicalize_passes(Report()):
        mod = one(mod)
    return mod


def _const(array: object) -> relax.Expr:
    return relax.const(np.asarray(array, "float32"))


def _network(integers: Integers) -> Callable[[relax.BlockBuilder, relax.Expr], relax.Expr]:
    """What exporters do to a small MobileNetV3-like network."""

    def norm(bb: relax.BlockBuilder, y: relax.Expr, channels: int, name: str) -> relax.Expr:
        params = [_const(np.full(channels, v)) for v in (2.0, 1.0, -1.0, 4.0)]
        whole = bb.emit(op.nn.batch_norm(y, *params, axis=1, epsilon=0.0, training=False))
        return bb.emit(relax.TupleGetItem(whole, 0), name)

    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        e = bb.emit
        y = e(op.nn.pad(x, (0, 0, 0, 0, 0, 1, 0, 1)))
        y = e(op.nn.conv2d(y, _const(integers(1, 8, 3, 3, 3)), strides=2), "stem")
        y = norm(bb, y, 8, "stem_norm")
        gate = e(op.clip(e(op.add(y, _const(3.0))), 0, 6))
        y = e(op.divide(e(op.multiply(y, gate)), _const(6.0)), "hard_swish")
        z = e(op.nn.conv2d(y, _const(integers(2, 8, 1, 3, 3)), padding=1, groups=8), "depthwise")
        z = e(op.maximum(norm(bb, z, 8, "depthwise_norm"), _const(0.0)), "bound")
        s = e(op.nn.adaptive_avg_pool2d(z, (1, 1)))
        s = e(op.reshape(s, (2, 8)))
        w = e(op.permute_dims(_const(integers(3, 8, 8))))
        s = e(op.sigmoid(e(op.matmul(s, w), "squeeze")))
        z = e(op.multiply(z, e(op.reshape(s, (2, 8, 1, 1)))))
        z = e(op.add(z, y), "residual")
        z = e(op.reshape(z, (2, 8 * 4 * 4)))
        return e(op.matmul(z, _const(integers(4, 128, 3))), "logits")

    return body


def test_small_network(build: Build, run: Run, counts: Counts, integers: Integers) -> None:
    before = build(_network(integers), (2, 3, 8, 8))
    after = _canonicalize(before)

    assert counts(after) == {
        "permute_dims": 1,
        "nn.conv2d": 2,
        "add": 4,  # two biases, the 3 of hard-swish, the residual
        "clip": 1,
        "multiply": 3,  # two of hard-swish, one of the gate
        "nn.relu": 1,
        "mean": 1,
        "reshape": 1,  # the flatten; between pooling and gate only ones come and go
        "matmul": 2,
        "sigmoid": 1,
    }
    names = {var.name for var, _ in ir.bindings(after["main"])}
    assert {"stem", "depthwise", "squeeze", "hard_swish", "bound", "residual", "logits"} <= names
    x = integers(0, 2, 3, 8, 8)
    old, new = run(before, x)[0], run(after, x)[0]
    # Everything is exact but dividing by 6 (a product with its reciprocal now) and the mean: each
    # is off by 2 ** -23 of itself, seen through two convolutions and 128 products of up to 3.
    assert np.max(np.abs(new - old)) <= 8 * 2.0**-23 * 128 * 3 * np.max(np.abs(old))
    np.testing.assert_allclose(new, old, rtol=0, atol=1e-6 * np.max(np.abs(old)))


def test_a_second_time_changes_nothing(build: Build, integers: Integers) -> None:
    once = _canonicalize(build(_network(integers), (2, 3, 8, 8)))
    tvm.ir.assert_structural_equal(_canonicalize(once), once)


def test_printed_form(build: Build, integers: Integers, golden: Callable[[str], None]) -> None:
    golden(_canonicalize(build(_network(integers), (2, 3, 8, 8))).script())


def test_the_same_value_twice_is_computed_once(build: Build, counts: Counts) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        return relax.Tuple([bb.emit(op.exp(x)), bb.emit(op.exp(x))])

    assert counts(_canonicalize(build(body, (4,)))) == {"exp": 1}


def test_input_module_is_not_changed(build: Build, integers: Integers) -> None:
    before = build(_network(integers), (2, 3, 8, 8))
    _canonicalize(before)
    tvm.ir.assert_structural_equal(before, build(_network(integers), (2, 3, 8, 8)))
