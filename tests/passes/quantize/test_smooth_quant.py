"""Outliers of activations, moved into the weights that read them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.calibration import Samples, Tap
from tvmopt.errors import DataError, OptionError
from tvmopt.frontend.onnx import TensorSpec
from tvmopt.passes.quantize.smooth_quant import (
    ChannelRanges,
    SmoothQuant,
    SmoothQuantOptions,
    rounding_error,
    smoothing,
)
from tvmopt.report import Report
from tvmopt.tap import native_tap
from tvmopt.targets import CpuTarget

Build = Callable[..., tvm.IRModule]
Run = Callable[..., list[np.ndarray]]
Counts = Callable[[tvm.IRModule], Counter[str]]
SHAPE = (1, 6, 8)


def _body(*, residual: bool) -> Callable[..., relax.Expr]:
    """Return a layer norm with an outlier channel, read by two matmuls and perhaps a sum."""

    def body(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        rng = np.random.default_rng(0)
        gamma = np.ones(8, "f4")
        gamma[3] = 200.0
        beta = relax.const(rng.standard_normal(8).astype("f4"))
        op, emit = relax.op, builder.emit
        norm = emit(op.nn.layer_norm(x, relax.const(gamma), beta, axes=[-1]), "norm")
        weights = [relax.const(rng.standard_normal((8, 8)).astype("f4")) for _ in range(2)]
        one = emit(op.matmul(norm, weights[0]), "one")
        two = emit(op.matmul(norm, weights[1]), "two")
        total = emit(op.multiply(one, two), "total")
        return op.add(total, norm) if residual else op.nn.relu(total)

    return body


@pytest.fixture(scope="module")
def samples() -> Samples:
    values = np.random.default_rng(1).standard_normal((20, *SHAPE[1:])).astype("f4")
    return Samples([TensorSpec(name="x", dtype="float32", shape=SHAPE)], {"x": values})


@pytest.fixture(scope="module")
def tap(here: CpuTarget) -> Tap:
    return native_tap(["x"], here)


@pytest.mark.parametrize("residual", [False, True])
def test_the_function_is_the_same_bit_for_bit(
    residual: bool, build: Build, run: Run, samples: Samples, tap: Tap
) -> None:
    mod = build(_body(residual=residual), SHAPE)
    after = SmoothQuant(SmoothQuantOptions(), samples, tap, Report())(mod)
    x = next(iter(samples))["x"]
    np.testing.assert_array_equal(run(after, x), run(mod, x))


def test_the_outlier_moves_into_the_weights(
    build: Build, samples: Samples, tap: Tap, counts: Counts
) -> None:
    report = Report()
    mod = build(_body(residual=False), SHAPE)
    after = SmoothQuant(SmoothQuantOptions(), samples, tap, report)(mod)
    assert counts(after) == counts(mod)
    norm = next(value for var, value in ir.bindings(after["main"]) if var.name == "norm")
    gamma = ir.float_constant(norm.args[1])
    # The outlier was 200 times the others; the square root of that, to a factor of 2, is left.
    assert gamma[3] / np.median(gamma) < 2 * 200**0.5
    (decision,) = report.decisions
    assert decision.site == "norm"
    assert decision.applied
    assert decision.reason.startswith("largest over median channel: ")
    before, left = decision.reason.split(": ")[1].split(" of the values")[0].split(" -> ")
    assert float(left) < 0.25 * float(before)


def test_other_readers_take_a_product(
    build: Build, samples: Samples, tap: Tap, counts: Counts
) -> None:
    report = Report()
    mod = build(_body(residual=True), SHAPE)
    after = SmoothQuant(SmoothQuantOptions(), samples, tap, report)(mod)
    assert counts(after)["multiply"] == counts(mod)["multiply"] + 1
    assert report.decisions[0].reason.endswith("; 1 other readers take a product")


def test_without_layer_norms_the_module_comes_back(
    build: Build, samples: Samples, tap: Tap
) -> None:
    report = Report()
    mod = build(lambda _, x: relax.op.nn.relu(x), SHAPE)
    assert SmoothQuant(SmoothQuantOptions(), samples, tap, report)(mod).same_as(mod)
    assert report.decisions[0].reason == "no layer reads a layer norm"


def _products(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
    """Return a convolution and a matmul that alone read what another layer's kernel gives."""
    rng = np.random.default_rng(2)
    op, emit = relax.op, builder.emit
    first = rng.standard_normal((8, 8)).astype("f4")
    first[:, 5] *= 300.0
    made = emit(op.nn.gelu(emit(op.matmul(x, relax.const(first)), "first")), "made")
    one = emit(op.matmul(made, relax.const(rng.standard_normal((8, 8)).astype("f4"))), "one")
    image = emit(op.reshape(op.nn.silu(one), (1, 2, 3, 8)), "image")
    bent = emit(op.multiply(image, relax.const(np.geomspace(1, 200, 8).astype("f4"))), "bent")
    kernel = relax.const(rng.standard_normal((4, 3, 3, 8)).astype("f4"))
    layouts = {"data_layout": "NHWC", "kernel_layout": "OHWI", "out_layout": "NHWC"}
    return op.nn.relu(emit(op.nn.conv2d(bent, kernel, padding=1, **layouts), "two"))


def test_what_layers_alone_read_takes_a_product(
    build: Build, run: Run, samples: Samples, tap: Tap, counts: Counts
) -> None:
    report = Report()
    mod = build(_products, SHAPE)
    how = SmoothQuantOptions(strength="auto", where="all")
    after = SmoothQuant(how, samples, tap, report)(mod)
    assert {d.site for d in report.decisions if d.applied} == {"made", "bent"}
    assert counts(after)["multiply"] == counts(mod)["multiply"] + 2
    for feed in samples.spread(4):
        np.testing.assert_array_equal(run(after, feed["x"]), run(mod, feed["x"]))


def test_what_stays_in_floats_takes_none(build: Build, samples: Samples, tap: Tap) -> None:
    report = Report()
    mod = build(_products, SHAPE)
    how = SmoothQuantOptions(strength="auto", where="all")
    leave = {"one": "asked", "two": "asked"}.get
    assert SmoothQuant(how, samples, tap, report, leave=leave)(mod).same_as(mod)
    assert report.decisions[0].reason == "no layer reads what another kernel gives"


def test_the_error_expected_is_that_of_uniform_steps() -> None:
    # One output, two channels of which one is a hundred times the other: halving the larger one's
    # share of the step costs the weights what the formula says, no more.
    seen = ChannelRanges("y")
    seen.update(np.array([[100.0, 1.0], [-100.0, -1.0]]))
    weights = [np.ones((2, 1, 1))]
    plain = rounding_error(seen, weights, np.ones(2))
    step, grain = 200 / 255, 1 / 64
    assert plain == pytest.approx((step**2 * 2 + 0.25 * grain**2 * 10001) / 12)
    even = rounding_error(seen, weights, np.array([10.0, 1.0]))
    step, grain = 20 / 255, 10 / 64
    assert even == pytest.approx((step**2 * 101 + 0.25 * grain**2 * 101) / 12)


def test_the_module_given_is_left_as_it_was(build: Build, samples: Samples, tap: Tap) -> None:
    mod = build(_body(residual=True), SHAPE)
    SmoothQuant(SmoothQuantOptions(), samples, tap, Report())(mod)
    tvm.ir.assert_structural_equal(mod, build(_body(residual=True), SHAPE))


def test_the_strength_says_who_bears_the_burden() -> None:
    x, w = np.array([16.0, 1.0, 0.0, 4.0]), np.array([1.0, 4.0, 1.0, 0.0])
    np.testing.assert_array_equal(smoothing(x, w, 1.0), [16.0, 1.0, 1.0, 1.0])
    np.testing.assert_array_equal(smoothing(x, w, 0.5), [4.0, 0.5, 1.0, 1.0])
    np.testing.assert_array_equal(smoothing(x, w, 0.0), [1.0, 0.25, 1.0, 1.0])


def test_the_largest_of_channels_is_over_all_batches() -> None:
    seen = ChannelRanges("y")
    seen.update(np.array([[[1.0, -5.0], [0.0, 2.0]]]))
    seen.update(np.array([[[-3.0, 4.0]]]))
    np.testing.assert_array_equal(seen.largest, [3.0, 5.0])
    with pytest.raises(DataError, match="tensor 'y': values must be finite"):
        seen.update(np.array([[[np.nan, 0.0]]]))


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_an_impossible_strength_is_refused(strength: float) -> None:
    with pytest.raises(OptionError, match=r"strength must be in \[0, 1\] or 'auto', got"):
        SmoothQuantOptions(strength=strength)


def test_an_unknown_place_is_refused() -> None:
    with pytest.raises(OptionError, match="where must be 'norms' or 'all', got 'some'"):
        SmoothQuantOptions(where="some")
