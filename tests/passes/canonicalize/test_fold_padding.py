"""Mirror of passes/canonicalize/fold_padding.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import forms
from tvmopt.passes.canonicalize.fold_padding import FoldPadding
from tvmopt.report import Report

Build = Callable[..., tvm.IRModule]
Run = Callable[..., list[np.ndarray]]
Counts = Callable[[tvm.IRModule], Counter[str]]
Integers = Callable[..., np.ndarray]
Emit = Callable[[relax.Expr], relax.Expr]
Make = Callable[[Emit, relax.Expr], relax.Expr]

op = relax.op
nn = relax.op.nn
LOWEST = float(np.finfo("float32").min)
_WEIGHT = np.random.default_rng(1).integers(-2, 3, (4, 2, 3, 3)).astype("float32")


def _pad(
    e: Emit,
    x: relax.Expr,
    *,
    h: tuple[int, int] = (1, 2),
    w: tuple[int, int] = (0, 1),
    value: float = 0.0,
) -> relax.Expr:
    return e(nn.pad(x, (0, 0, 0, 0, *h, *w), pad_value=value))


_FOLDS: dict[str, Make] = {
    "convolution": lambda e, x: nn.conv2d(_pad(e, x), relax.const(_WEIGHT)),
    "strided, padded itself": lambda e, x: nn.conv2d(
        _pad(e, x), relax.const(_WEIGHT), strides=2, padding=(0, 1, 1, 0), dilation=2
    ),
    "convolution along one axis": lambda e, x: nn.conv1d(
        e(nn.pad(e(op.reshape(x, (2, 2, 20))), (0, 0, 0, 0, 2, 1))), relax.const(_WEIGHT[:, :, 0])
    ),
    "average": lambda e, x: nn.avg_pool2d(_pad(e, x), (2, 2)),
    "average that counts": lambda e, x: nn.avg_pool2d(
        _pad(e, x), (3, 3), padding=1, count_include_pad=True
    ),
    "max of the lowest": lambda e, x: nn.max_pool2d(_pad(e, x, value=LOWEST), (3, 3)),
    "max of minus infinity": lambda e, x: nn.max_pool2d(_pad(e, x, value=-np.inf), (3, 3)),
    "max behind a relu": lambda e, x: nn.max_pool2d(_pad(e, e(nn.relu(x))), (3, 3), strides=2),
    "max behind a clip": lambda e, x: nn.max_pool2d(
        _pad(e, e(op.clip(x, -1.0, 2.0)), value=-1.0), (3, 3)
    ),
    "behind a reshape of ones": lambda e, x: nn.conv2d(
        e(op.reshape(e(nn.pad(e(op.reshape(x, (4, 20))), (0, 0, 2, 3))), (1, 4, 1, 25))),
        relax.const(np.ones((2, 4, 1, 3), "float32")),
    ),
}


@pytest.mark.parametrize("name", _FOLDS)
def test_pad_becomes_padding(
    build: Build, run: Run, counts: Counts, integers: Integers, name: str
) -> None:
    before, report = (
        build(lambda bb, x: bb.emit(_FOLDS[name](bb.emit, x), "y"), (2, 2, 4, 5)),
        Report(),
    )

    after = FoldPadding(report)(before)

    assert counts(after)["nn.pad"] == 0
    assert [(d.site, d.applied, d.reason) for d in report.decisions] == [
        ("y", True, "the pad is constant")
    ]
    x = integers(0, 2, 2, 4, 5)
    # Sums of integers are exact; an average divides the same sum by the same count.
    np.testing.assert_array_equal(run(after, x)[0], run(before, x)[0])


_STAYS: dict[str, tuple[Make, str]] = {
    "not zero": (
        lambda e, x: nn.conv2d(_pad(e, x, value=1.0), relax.const(_WEIGHT)),
        "a convolution pads with zeros",
    ),
    "reflected": (
        lambda e, x: nn.conv2d(
            e(nn.pad(x, (0, 0, 0, 0, 1, 1, 1, 1), pad_mode="reflect")), relax.const(_WEIGHT)
        ),
        "the pad is of mode reflect",
    ),
    "channels": (
        lambda e, x: nn.conv2d(
            e(nn.pad(x, (0, 0, 0, 1, 1, 1, 0, 0))),
            relax.const(np.ones((1, 3, 3, 3), "float32")),
        ),
        "the pad widens the batch or the channels",
    ),
    "average that counts the pad but not its own": (
        lambda e, x: nn.avg_pool2d(_pad(e, x), (3, 3), padding=1),
        "the pooling counts this pad but not its own",
    ),
    "average of ones": (
        lambda e, x: nn.avg_pool2d(_pad(e, x, value=1.0), (3, 3)),
        "an average pooling pads with zeros",
    ),
    "rounded up": (
        lambda e, x: nn.avg_pool2d(_pad(e, x), (2, 2), strides=2, ceil_mode=True),
        "the pooling rounds its size up",
    ),
    "max of zeros": (
        lambda e, x: nn.max_pool2d(_pad(e, x), (3, 3)),
        "something in the data may be smaller than the pad",
    ),
    "window in the pad": (
        lambda e, x: nn.max_pool2d(_pad(e, e(nn.relu(x)), h=(2, 0)), (2, 2)),
        "a window may lie in the pad alone",
    ),
}


@pytest.mark.parametrize("name", _STAYS)
def test_pad_that_is_no_padding_stays_and_the_report_says_why(build: Build, name: str) -> None:
    make, reason = _STAYS[name]
    before, report = build(lambda bb, x: bb.emit(make(bb.emit, x), "y"), (1, 2, 4, 5)), Report()
    tvm.ir.assert_structural_equal(FoldPadding(report)(before), before)
    assert [(d.applied, d.reason) for d in report.decisions] == [(False, reason)]


def test_pad_behind_a_real_reshape_stays(build: Build) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        wide = bb.emit(op.reshape(bb.emit(nn.pad(x, (0, 2, 0, 0))), (1, 2, 6, 3)))
        return bb.emit(nn.conv2d(wide, relax.const(_WEIGHT)))

    before = build(body, (4, 6))
    tvm.ir.assert_structural_equal(FoldPadding(Report())(before), before)


def test_input_module_is_not_changed(build: Build) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        return bb.emit(_FOLDS["convolution"](bb.emit, x))

    before = build(body, (1, 2, 4, 5))
    FoldPadding(Report())(before)
    tvm.ir.assert_structural_equal(before, build(body, (1, 2, 4, 5)))


def _on_codes(kind: str) -> Make:
    """Return an operator on dequantized codes that are padded with the integer of ``kind``."""
    how = forms.Affine(scale=np.array(0.5, "f4"), zero_point=np.array(3, "i4"), dtype="uint8")

    def make(e: Emit, q: relax.Expr) -> relax.Expr:
        value = {"zero": 3.0, "other": 4.0, "lowest": 0.0}[kind.split()[-1]]
        padded = _pad(e, q, value=value)
        if kind.startswith("bare"):
            return nn.max_pool2d(padded, (3, 3))
        data = e(forms.dequantize(padded, how))
        if kind.startswith("max"):
            return nn.max_pool2d(data, (3, 3))
        return nn.conv2d(data, relax.const(_WEIGHT))

    return make


@pytest.mark.parametrize(
    ("kind", "folds"),
    [
        ("conv zero", True),
        ("conv other", False),
        ("max lowest", True),
        ("max zero", False),
        ("bare lowest", True),
        ("bare other", False),
    ],
)
def test_a_pad_of_integers_is_folded_too(
    build: Build, run: Run, counts: Counts, kind: str, folds: bool
) -> None:
    make = _on_codes(kind)
    before = build(lambda bb, q: make(bb.emit, q), (1, 2, 6, 6), dtype="uint8")
    after = FoldPadding(Report())(before)
    assert ("nn.pad" not in counts(after)) == folds
    q = np.random.default_rng(2).integers(0, 9, (1, 2, 6, 6), "uint8")
    np.testing.assert_array_equal(run(after, q)[0], run(before, q)[0])
