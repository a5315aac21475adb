"""Mirror of passes/canonicalize/canonicalize_convolution.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.passes.canonicalize.canonicalize_convolution import CanonicalizeConvolution
from tvmopt.report import Report

Build = Callable[..., tvm.IRModule]
Run = Callable[..., list[np.ndarray]]
Integers = Callable[..., np.ndarray]
Make = Callable[[relax.Expr], relax.Expr]

nn = relax.op.nn
_RNG = np.random.default_rng(1)
_WEIGHT = relax.const(_RNG.integers(-2, 3, (6, 2, 3)).astype("float32"))
_BACK = relax.const(_RNG.integers(-2, 3, (4, 3, 3)).astype("float32"))

_ONE_DIMENSIONAL: dict[str, tuple[Make, str]] = {
    "conv1d": (
        lambda x: nn.conv1d(x, _WEIGHT, strides=2, padding=(1, 2), dilation=2, groups=2),
        "relax.nn.conv2d",
    ),
    "conv1d_transpose": (
        lambda x: nn.conv1d_transpose(
            x, _BACK, strides=3, padding=(1, 0), output_padding=1, dilation=2, groups=2
        ),
        "relax.nn.conv2d_transpose",
    ),
    "max_pool1d": (
        lambda x: nn.max_pool1d(x, 3, strides=2, padding=(1, 0), ceil_mode=True),
        "relax.nn.max_pool2d",
    ),
    "avg_pool1d": (
        lambda x: nn.avg_pool1d(x, 2, padding=(0, 1), count_include_pad=True),
        "relax.nn.avg_pool2d",
    ),
    "adaptive_avg_pool1d": (
        lambda x: nn.adaptive_avg_pool1d(x, 3),
        "relax.nn.adaptive_avg_pool2d",
    ),
}


@pytest.mark.parametrize("name", _ONE_DIMENSIONAL)
def test_one_dimension_becomes_two(build: Build, run: Run, integers: Integers, name: str) -> None:
    make, operator = _ONE_DIMENSIONAL[name]
    before, report = build(lambda bb, x: bb.emit(make(x), "layer"), (2, 4, 9)), Report()

    after = CanonicalizeConvolution(report)(before)

    assert [call.op.name for call in ir.calls(after)] == [
        "relax.expand_dims",
        operator,
        "relax.squeeze",
    ]
    assert [(d.site, d.reason) for d in report.decisions] == [
        ("layer", "it is two-dimensional with height 1")
    ]
    x = integers(0, 2, 4, 9)
    np.testing.assert_array_equal(run(after, x)[0], run(before, x)[0])


def test_a_weight_that_is_no_constant_is_reshaped(
    build: Build, run: Run, integers: Integers
) -> None:
    before = build(lambda bb, x, w: bb.emit(nn.conv1d(x, w)), (1, 2, 6), (3, 2, 3))
    after = CanonicalizeConvolution(Report())(before)
    x, w = integers(0, 1, 2, 6), integers(1, 3, 2, 3)
    np.testing.assert_array_equal(run(after, x, w)[0], run(before, x, w)[0])


def test_other_layouts_stay_and_the_report_says_why(build: Build) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        return bb.emit(nn.max_pool1d(x, 2, layout="NWC"), "pool")

    before, report = build(body, (2, 6, 4)), Report()
    tvm.ir.assert_structural_equal(CanonicalizeConvolution(report)(before), before)
    assert report.decisions[0].reason == "its layout is NWC, not NCW"


def test_input_module_is_not_changed(build: Build) -> None:
    make, _ = _ONE_DIMENSIONAL["conv1d"]
    before = build(lambda bb, x: bb.emit(make(x)), (2, 4, 9))
    CanonicalizeConvolution(Report())(before)
    tvm.ir.assert_structural_equal(before, build(lambda bb, x: bb.emit(make(x)), (2, 4, 9)))
