"""Mirror of passes/canonicalize/fold_batch_norm.py."""

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
from tvmopt.passes.canonicalize.affine_steps import Affine
from tvmopt.passes.canonicalize.fold_batch_norm import FoldBatchNorm, fold
from tvmopt.passes.canonicalize.linear_sites import LinearSite, linear_site
from tvmopt.report import Report

Build = Callable[..., tvm.IRModule]
Run = Callable[..., list[np.ndarray]]
Counts = Callable[[tvm.IRModule], Counter[str]]
Integers = Callable[..., np.ndarray]
Body = Callable[[relax.BlockBuilder, relax.Expr], relax.Expr]

UNIT = 2.0**-24  # the rounding of one float32 operation, relative


def _const(array: np.ndarray) -> relax.Expr:
    return relax.const(array.astype("float32"))


def _batch_norm(bb: relax.BlockBuilder, x: relax.Expr, channels: int, seed: int) -> relax.Expr:
    """Normalize by powers of two, so that folding into integers is exact."""
    rng = np.random.default_rng(seed)
    gamma = 2.0 ** rng.integers(-1, 2, channels)
    beta, mean = rng.integers(-2, 3, (2, channels))
    # 4 ** n less epsilon: the scale is a power of two in float64 and in TVM's float32.
    variance = 4.0 ** rng.integers(0, 2, channels)
    params = [_const(p) for p in (gamma, beta, mean, variance)]
    norm = relax.op.nn.batch_norm(x, *params, axis=1, epsilon=0.0, training=False)
    return bb.emit(relax.TupleGetItem(bb.emit(norm, "norm"), 0), "normalized")


def _conv_then_norm(integers: Integers, groups: int = 2) -> Body:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        y = relax.op.nn.conv2d(
            x, _const(integers(1, 6, 4 // groups, 3, 3)), padding=1, groups=groups
        )
        y = bb.emit(relax.op.add(bb.emit(y, "conv"), _const(integers(2, 1, 6, 1, 1))), "bias")
        return bb.emit(relax.op.nn.relu(_batch_norm(bb, y, 6, 3)), "relu")

    return body


@pytest.mark.parametrize("groups", [1, 2])
def test_norm_behind_a_convolution_moves_into_its_weight(
    build: Build, run: Run, counts: Counts, integers: Integers, groups: int
) -> None:
    before, report = build(_conv_then_norm(integers, groups), (2, 4, 5, 6)), Report()

    after = FoldBatchNorm(report)(before)

    assert counts(after) == {"nn.conv2d": 1, "add": 1, "nn.relu": 1}
    assert [var.name for var, _ in ir.bindings(after["main"])][:2] == ["conv", "normalized"]
    assert [(d.site, d.applied) for d in report.decisions] == [("conv", True)]
    x = integers(0, 2, 4, 5, 6)
    np.testing.assert_array_equal(run(after, x)[0], run(before, x)[0])


def test_real_statistics_move_the_result_by_rounding_only(build: Build, run: Run) -> None:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((8, 3, 3, 3)).astype("float32")
    gamma, beta, mean = rng.standard_normal((3, 8)).astype("float32")
    variance = rng.uniform(0.1, 2.0, 8).astype("float32")

    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        y = bb.emit(relax.op.nn.conv2d(x, relax.const(w)))
        params = [relax.const(p) for p in (gamma, beta, mean, variance)]
        norm = bb.emit(relax.op.nn.batch_norm(y, *params, axis=1, training=False))
        return bb.emit(relax.TupleGetItem(norm, 0))

    after = FoldBatchNorm(Report())(build(body, (1, 3, 6, 6)))

    x = rng.standard_normal((1, 3, 6, 6)).astype("float32")
    scale = gamma.astype("float64") / np.sqrt(variance.astype("float64") + 1e-5)
    windows = np.lib.stride_tricks.sliding_window_view(x.astype("float64"), (3, 3), axis=(2, 3))
    conv = np.einsum("ncxyhw,ochw->noxy", windows, w)
    size = np.einsum("ncxyhw,ochw->noxy", np.abs(windows), np.abs(w))
    shift = (beta - mean * scale)[:, None, None]
    expected = conv * scale[:, None, None] + shift
    # 27 products summed in any order, each weight and the shift rounded once, one more addition.
    bound = (27 + 2) * UNIT * (size * np.abs(scale)[:, None, None] + np.abs(shift))
    assert np.all(np.abs(run(after, x)[0] - expected) <= bound)


def _transposed(integers: Integers) -> Body:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        w = _const(integers(1, 4, 3, 2, 2))
        y = relax.op.nn.conv2d_transpose(x, w, strides=(2, 2), groups=2)
        return _batch_norm(bb, bb.emit(y, "up"), 6, 2)

    return body


def _matmul(integers: Integers) -> Body:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        x = bb.emit(relax.op.multiply(x, _const(integers(4, 5))))
        x = bb.emit(relax.op.add(x, _const(integers(5, 1, 5))))
        y = bb.emit(relax.op.matmul(x, _const(integers(1, 5, 3))), "product")
        y = bb.emit(relax.op.subtract(_const(integers(2, 3)), y))
        return bb.emit(relax.op.divide(y, _const(np.array([2.0, 4.0, 0.5]))))

    return body


def _spelled_out(integers: Integers) -> Body:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        x = bb.emit(relax.op.add(_const(integers(7, 4, 1, 1)), x))
        x = bb.emit(relax.op.multiply(x, _const(np.float32(2.0))))
        y = bb.emit(relax.op.nn.conv2d(x, _const(integers(1, 6, 4, 3, 3))), "conv")
        y = bb.emit(relax.op.multiply(_const(integers(2, 6, 1, 1)), y))
        y = bb.emit(relax.op.subtract(y, _const(integers(3, 1, 6, 1, 1))))
        return bb.emit(relax.op.negative(y))

    return body


@pytest.mark.parametrize(
    ("make", "shape", "left"),
    [
        (_transposed, (2, 4, 3, 3), {"nn.conv2d_transpose": 1, "add": 1}),
        (_matmul, (2, 4, 5), {"matmul": 1, "add": 1}),
        (_spelled_out, (2, 4, 6, 5), {"nn.conv2d": 1, "add": 1}),
    ],
)
def test_scales_and_shifts_on_both_sides_are_folded(
    build: Build,
    run: Run,
    counts: Counts,
    integers: Integers,
    make: Callable[[Integers], Body],
    shape: tuple[int, ...],
    left: dict[str, int],
) -> None:
    before = build(make(integers), shape)
    after = FoldBatchNorm(Report())(before)
    assert counts(after) == left
    x = integers(0, *shape)
    np.testing.assert_array_equal(run(after, x)[0], run(before, x)[0])


def test_shift_in_front_of_a_padded_convolution_stays(
    build: Build, run: Run, counts: Counts, integers: Integers
) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        x = bb.emit(relax.op.add(x, _const(integers(4, 1, 4, 1, 1))))
        x = bb.emit(relax.op.multiply(x, _const(integers(5, 1, 4, 1, 1))))
        return bb.emit(relax.op.nn.conv2d(x, _const(integers(1, 6, 4, 3, 3)), padding=1))

    before = build(body, (1, 4, 4, 4))
    after = FoldBatchNorm(Report())(before)

    # The scale between the shift and the convolution moves on its own.
    assert counts(after) == {"add": 1, "nn.conv2d": 1}
    x = integers(0, 1, 4, 4, 4)
    np.testing.assert_array_equal(run(after, x)[0], run(before, x)[0])


def test_norm_that_nothing_takes_becomes_multiply_and_add(
    build: Build, run: Run, counts: Counts, integers: Integers
) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        return _batch_norm(bb, bb.emit(relax.op.nn.relu(x)), 4, 1)

    before, report = build(body, (2, 4, 3, 3)), Report()
    after = FoldBatchNorm(report)(before)

    assert counts(after) == {"nn.relu": 1, "multiply": 1, "add": 1}
    assert report.decisions[0].reason == "no linear operator next to it can take it"
    x = integers(0, 2, 4, 3, 3)
    np.testing.assert_array_equal(run(after, x)[0], run(before, x)[0])


def test_convolution_that_something_else_reads_keeps_its_weight(
    build: Build, run: Run, counts: Counts, integers: Integers
) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        y = bb.emit(relax.op.nn.conv2d(x, _const(integers(1, 6, 4, 1, 1))), "conv")
        return relax.Tuple([_batch_norm(bb, y, 6, 3), y])

    before = build(body, (1, 4, 3, 3))
    after = FoldBatchNorm(Report())(before)

    assert counts(after) == {"nn.conv2d": 1, "multiply": 1, "add": 1}
    x = integers(0, 1, 4, 3, 3)
    for new, old in zip(run(after, x), run(before, x), strict=True):
        np.testing.assert_array_equal(new, old)


def test_quantized_weight_is_left_alone(build: Build, integers: Integers) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        w = relax.const(integers(1, 6, 4, 1, 1).astype("int8"))
        scale, zero = relax.const(np.float32(0.5)), relax.const(np.int8(0))
        w = bb.emit(relax.op.dequantize(w, scale, zero, axis=0))
        y = bb.emit(relax.op.nn.conv2d(x, w))
        return bb.emit(relax.op.multiply(y, _const(integers(2, 1, 6, 1, 1))))

    before = build(body, (1, 4, 3, 3))
    tvm.ir.assert_structural_equal(FoldBatchNorm(Report())(before), before)


def test_weight_that_would_overflow_is_left_alone(build: Build) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        y = bb.emit(relax.op.nn.conv2d(x, _const(np.full((1, 1, 1, 1), 1e30))), "conv")
        return bb.emit(relax.op.multiply(y, _const(np.full((1, 1, 1, 1), 1e30))))

    before, report = build(body, (1, 1, 2, 2)), Report()
    tvm.ir.assert_structural_equal(FoldBatchNorm(report)(before), before)
    assert report.decisions[0].reason == "the folded weight would overflow its dtype"


def test_what_is_folded_already_is_not_touched(build: Build, integers: Integers) -> None:
    once = FoldBatchNorm(Report())(build(_conv_then_norm(integers), (2, 4, 5, 6)))
    report = Report()
    tvm.ir.assert_structural_equal(FoldBatchNorm(report)(once), once)
    assert report.decisions == []


def test_input_module_is_not_changed(build: Build, integers: Integers) -> None:
    before = build(_conv_then_norm(integers), (2, 4, 5, 6))
    FoldBatchNorm(Report())(before)
    tvm.ir.assert_structural_equal(before, build(_conv_then_norm(integers), (2, 4, 5, 6)))


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    groups=st.integers(1, 3),
    outputs=st.integers(1, 3),
    inputs=st.integers(1, 3),
    taps=st.integers(1, 4),
    transposed=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_fold_keeps_the_map(
    groups: int, outputs: int, inputs: int, taps: int, transposed: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    shape = (groups * inputs, outputs, taps) if transposed else (groups * outputs, inputs, taps)
    site = LinearSite(
        weight=rng.standard_normal(shape),
        channel_axis=1,
        rank=3,
        output_axis=1 if transposed else 0,
        input_axis=0 if transposed else 1,
        groups=groups,
        transposed=transposed,
        is_matmul=False,
        takes_shift=True,
    )
    before, after = (
        Affine(scale=rng.standard_normal(n), shift=rng.standard_normal(n))
        for n in (groups * inputs, groups * outputs)
    )

    weight, shift = fold(site, before, after)

    def apply(weight: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Sum over the inputs and taps of each group, by the layout of the weight."""
        x = x.reshape(groups, inputs, taps)
        if transposed:
            w = weight.reshape(groups, inputs, outputs, taps)
            return np.einsum("giot,git->go", w, x).reshape(-1)
        w = weight.reshape(groups, outputs, inputs, taps)
        return np.einsum("goit,git->go", w, x).reshape(-1)

    x = rng.standard_normal((groups * inputs, taps))
    mapped = x * before.scale[:, None] + before.shift[:, None]
    expected = apply(site.weight, mapped) * after.scale + after.shift
    # A dozen float64 operations on numbers of order 1 to 10.
    np.testing.assert_allclose(apply(weight, x) + shift, expected, rtol=1e-11, atol=1e-11)


def test_operators_without_a_constant_weight_are_no_sites(build: Build) -> None:
    mod = build(lambda _bb, x, w: relax.op.matmul(x, w), (2, 3), (3, 4))
    assert linear_site(next(ir.calls(mod)), 2) is None
