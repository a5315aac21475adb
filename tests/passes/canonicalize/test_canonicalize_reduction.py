"""Mirror of passes/canonicalize/canonicalize_reduction.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt.passes.canonicalize.canonicalize_reduction import CanonicalizeReduction
from tvmopt.report import Report

Build = Callable[..., tvm.IRModule]
Run = Callable[..., list[np.ndarray]]
Counts = Callable[[tvm.IRModule], Counter[str]]
Make = Callable[[relax.Expr], relax.Expr]

nn = relax.op.nn

_GLOBAL: dict[str, tuple[Make, str]] = {
    "adaptive": (lambda x: nn.adaptive_avg_pool2d(x, (1, 1)), "mean"),
    "average": (lambda x: nn.avg_pool2d(x, (4, 2), strides=(3, 3)), "mean"),
    "average in NHWC": (lambda x: nn.avg_pool2d(x, (3, 4), layout="NHWC"), "mean"),
    "max": (lambda x: nn.max_pool2d(x, (4, 2)), "max"),
}
_LOCAL: dict[str, Make] = {
    "adaptive to two": lambda x: nn.adaptive_avg_pool2d(x, (2, 1)),
    "part of the image": lambda x: nn.avg_pool2d(x, (2, 2)),
    "padded": lambda x: nn.avg_pool2d(x, (4, 2), padding=(1, 1), strides=(9, 9)),
    "dilated": lambda x: nn.max_pool2d(x, (2, 2), dilation=(3, 1)),
}


@pytest.mark.parametrize("name", _GLOBAL)
def test_global_pooling_becomes_a_reduction(
    build: Build, run: Run, counts: Counts, integers: Callable[..., np.ndarray], name: str
) -> None:
    make, reduction = _GLOBAL[name]
    before, report = build(lambda bb, x: bb.emit(make(x), "pool"), (2, 3, 4, 2)), Report()

    after = CanonicalizeReduction(report)(before)

    assert counts(after) == {reduction: 1}
    assert [(d.site, d.reason) for d in report.decisions] == [
        ("pool", "its window is the whole image")
    ]
    x = integers(0, 2, 3, 4, 2)
    # Sums of integers are exact; the one division may be a product with a rounded reciprocal.
    np.testing.assert_allclose(run(after, x)[0], run(before, x)[0], rtol=2.0**-22, atol=0)


@pytest.mark.parametrize("name", _LOCAL)
def test_other_poolings_stay(build: Build, name: str) -> None:
    before, report = build(lambda bb, x: bb.emit(_LOCAL[name](x)), (2, 3, 4, 2)), Report()
    tvm.ir.assert_structural_equal(CanonicalizeReduction(report)(before), before)
    assert report.decisions == []


def test_input_module_is_not_changed(build: Build) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        return bb.emit(nn.adaptive_avg_pool2d(x, (1, 1)))

    before = build(body, (2, 3, 4, 2))
    CanonicalizeReduction(Report())(before)
    tvm.ir.assert_structural_equal(before, build(body, (2, 3, 4, 2)))
