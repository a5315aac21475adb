"""Channels between layers, scaled so that both sides quantize well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from tvmopt import ir
from tvmopt.errors import OptionError
from tvmopt.passes.quantize.equalize_layers import EqualizeLayers, EqualizeLayersOptions
from tvmopt.report import Report

Build = Callable[..., tvm.IRModule]
Run = Callable[..., list[np.ndarray]]
Counts = Callable[[tvm.IRModule], Counter[str]]
LAYOUTS = {"data_layout": "NHWC", "kernel_layout": "OHWI", "out_layout": "NHWC"}


def _uneven(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Return a weight whose outputs differ by orders of magnitude."""
    sizes = np.exp(rng.uniform(-4, 4, shape[0])).reshape(-1, *[1] * (len(shape) - 1))
    return (rng.standard_normal(shape) * sizes).astype("f4")


def _chain(act: Callable[[relax.Expr], relax.Expr], seed: int = 0) -> Callable[..., relax.Expr]:
    """Return a body: 3x3, act, depthwise, act, pointwise, mean, matmul."""

    def body(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        rng = np.random.default_rng(seed)
        op, emit = relax.op, builder.emit

        def conv(data: relax.Expr, name: str, *shape: int, **how: int) -> relax.Var:
            product = op.nn.conv2d(data, relax.const(_uneven(rng, *shape)), **how, **LAYOUTS)
            bias = relax.const(rng.standard_normal((1, 1, 1, shape[0])).astype("f4"))
            return emit(op.add(emit(product, f"{name}_conv2d"), bias), name)

        first = emit(act(conv(x, "first", 6, 3, 3, 3, padding=1)), "act")
        deep = emit(act(conv(first, "deep", 6, 3, 3, 1, padding=1, groups=6)), "deep_act")
        point = emit(op.nn.relu(conv(deep, "point", 5, 1, 1, 6)), "point_act")
        mean = emit(op.mean(point, axis=[1, 2], keepdims=True), "mean")
        flat = emit(op.reshape(mean, (1, 5)), "flat")
        return op.matmul(flat, relax.const(rng.standard_normal((5, 4)).astype("f4")))

    return body


def _equalize(mod: tvm.IRModule, clips: str = "keep") -> tuple[tvm.IRModule, Report]:
    report = Report()
    return EqualizeLayers(EqualizeLayersOptions(clips=clips), report)(mod), report


def _weights(mod: tvm.IRModule) -> list[np.ndarray]:
    return [
        ir.float_constant(value.args[1])
        for _, value in ir.bindings(mod["main"])
        if ir.is_call_to(value, "relax.nn.conv2d", "relax.matmul")
    ]


@settings(max_examples=3, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000))
def test_the_function_is_the_same_bit_for_bit(seed: int, build: Build, run: Run) -> None:
    mod = build(_chain(relax.op.nn.relu, seed), (1, 6, 6, 3))
    after, _ = _equalize(mod)
    x = np.random.default_rng(seed).standard_normal((1, 6, 6, 3)).astype("f4")
    np.testing.assert_array_equal(run(after, x), run(mod, x))
    assert not np.array_equal(_weights(after)[0], _weights(mod)[0])


def test_ranges_agree_between_layers_to_a_factor_of_two(build: Build) -> None:
    after = _weights(_equalize(build(_chain(relax.op.nn.relu), (1, 6, 6, 3)))[0])
    first, deep, point, last = (np.abs(weight) for weight in after)
    out_of = [w.reshape(len(w), -1).max(1) for w in (first, deep, point)]
    into = [deep.reshape(6, -1).max(1), point.max(axis=(0, 1, 2)), last.max(1)]
    for left, right in zip(out_of, into, strict=True):
        # Each scale is within 2^0.5 of ideal, and moves one side up and the other down; chains
        # agree up to what their neighbours' rounding moves: another 2^0.5 on either side.
        ratio = left / right
        assert np.all((ratio >= 0.25) & (ratio <= 4.0))
    before = _weights(build(_chain(relax.op.nn.relu), (1, 6, 6, 3)))
    unequal = np.abs(before[0]).reshape(6, -1).max(1) / np.abs(before[1]).reshape(6, -1).max(1)
    assert unequal.max() / unequal.min() > 100.0


def test_the_report_says_of_each_pair_what_it_brought(build: Build) -> None:
    report = _equalize(build(_chain(relax.op.nn.relu), (1, 6, 6, 3)))[1]
    notes = {d.site: d for d in report.decisions}
    assert [name for name, d in notes.items() if d.applied] == [
        "first_conv2d",
        "deep_conv2d",
        "point_conv2d",
    ]
    assert (
        "largest over median weight of the inputs of deep_conv2d: " in notes["first_conv2d"].reason
    )
    assert notes["result"].reason == "several operators read it, or none"


def _clip(x: relax.Expr) -> relax.Expr:
    return relax.op.clip(x, 0, 6)


def test_a_clip_keeps_layers_apart_unless_asked(build: Build) -> None:
    mod = build(_chain(_clip), (1, 6, 6, 3))
    after, report = _equalize(mod)
    reasons = {d.site: d.reason for d in report.decisions if not d.applied}
    assert reasons["first_conv2d"] == reasons["deep_conv2d"] == "a clip at 6 does not scale"
    np.testing.assert_array_equal(_weights(after)[0], _weights(mod)[0])


def test_a_split_clip_is_the_same_function_bit_for_bit(
    build: Build, run: Run, counts: Counts
) -> None:
    mod = build(_chain(_clip), (1, 6, 6, 3))
    after, _ = _equalize(mod, "split")
    x = np.random.default_rng(5).standard_normal((1, 6, 6, 3)).astype("f4")
    np.testing.assert_array_equal(run(after, x), run(mod, x))
    assert counts(after)["minimum"] == 2
    assert counts(after)["clip"] == 0


def test_a_dropped_clip_is_a_rectifier(build: Build, run: Run, counts: Counts) -> None:
    after, _ = _equalize(build(_chain(_clip), (1, 6, 6, 3)), "drop")
    assert counts(after)["nn.relu"] == 3
    assert counts(after)["clip"] == counts(after)["minimum"] == 0
    x = np.random.default_rng(5).standard_normal((1, 6, 6, 3)).astype("f4")
    rectified = build(_chain(relax.op.nn.relu), (1, 6, 6, 3))
    np.testing.assert_array_equal(run(after, x), run(rectified, x))


def test_what_several_read_and_what_does_not_scale_stays(build: Build) -> None:
    def body(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        rng = np.random.default_rng(0)
        weights = [relax.const(_uneven(rng, 4, 4)) for _ in range(4)]
        op, emit = relax.op, builder.emit
        one = emit(op.matmul(x, weights[0]), "one")
        two = emit(op.matmul(one, weights[1]), "two")
        curved = emit(op.tanh(two), "curved")
        three = emit(op.matmul(curved, weights[2]), "three")
        total = emit(op.add(three, one), "total")
        return op.matmul(total, weights[3])

    mod = build(body, (3, 4))
    after, report = _equalize(mod)
    tvm.ir.assert_structural_equal(after, mod)
    reasons = {d.site: d.reason for d in report.decisions}
    assert reasons["one"] == "several operators read it, or none"
    assert reasons["two"] == reasons["three"] == "what reads it does not scale with it"


def test_the_module_given_is_left_as_it_was(build: Build) -> None:
    mod = build(_chain(relax.op.nn.relu), (1, 6, 6, 3))
    _equalize(mod)
    tvm.ir.assert_structural_equal(mod, build(_chain(relax.op.nn.relu), (1, 6, 6, 3)))


def test_dead_channels_are_not_scaled(build: Build) -> None:
    def body(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        first, second = np.ones((3, 3), "f4"), np.full((3, 2), 64.0, "f4")
        first[:, 1] = 0.0
        one = builder.emit(relax.op.matmul(x, relax.const(first)), "one")
        return relax.op.matmul(one, relax.const(second))

    first, second = _weights(_equalize(build(body, (2, 3)))[0])
    np.testing.assert_array_equal(first[0], [8.0, 0.0, 8.0])
    np.testing.assert_array_equal(second[:, 0], [8.0, 64.0, 8.0])


def test_an_impossible_option_is_refused() -> None:
    with pytest.raises(OptionError, match="clips must be 'keep', 'split' or 'drop', got 'cut'"):
        EqualizeLayersOptions(clips="cut")
