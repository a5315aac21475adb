"""Mirror of tvmopt/lowering/pooling.py."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from tvm import relax

from tvmopt.report import Report

op = relax.op
Check = Callable[..., list[str]]


@pytest.mark.parametrize(
    ("pool", "kind"),
    [
        (lambda x: op.nn.max_pool2d(x, (2, 2), (2, 2), layout="NHWC"), "maxpool"),
        (lambda x: op.nn.max_pool2d(x, (3, 3), (2, 2), (1, 1), layout="NHWC"), "maxpool"),
        (lambda x: op.nn.avg_pool2d(x, (3, 2), (1, 2), (1, 0), layout="NHWC"), "meanpool"),
        (
            lambda x: op.nn.avg_pool2d(
                x, (3, 3), (2, 2), (1, 1), count_include_pad=True, layout="NHWC"
            ),
            "meanpool",
        ),
    ],
    ids=["max", "padded max", "mean", "mean with padding"],
)
def test_windows_get_a_kernel(
    kit: SimpleNamespace, check: Check, pool: Callable, kind: str
) -> None:
    (kernel,) = check(kit.module(lambda _, x: pool(x), (2, 7, 8, 11)))
    assert kernel == f"f32_{kind}__{kit.ISA}"


@pytest.mark.parametrize(
    ("axes", "keep", "shape"),
    [([1, 2], True, (2, 5, 4, 19)), ([1, 2], False, (1, 5, 4, 19)), ([-2], True, (2, 9, 8))],
    ids=["image", "flattened", "line"],
)
def test_the_mean_over_all_pixels_gets_a_kernel(
    kit: SimpleNamespace, check: Check, axes: list[int], keep: bool, shape: tuple[int, ...]
) -> None:
    mod = kit.module(lambda _, x: op.mean(x, axes, keepdims=keep), shape)
    assert check(mod) == [f"f32_global_mean__{kit.ISA}"]


@pytest.mark.parametrize(
    "body",
    [
        lambda x: op.nn.max_pool2d(x, (2, 2), dilation=(2, 2), layout="NHWC"),
        lambda x: op.nn.max_pool2d(x, (2, 2), (2, 2), layout="NCHW"),
        lambda x: op.nn.avg_pool2d(
            x, (3, 3), (2, 2), (1, 1), ceil_mode=True, count_include_pad=True, layout="NHWC"
        ),
        lambda x: op.mean(x, [2, 3]),
        lambda x: op.mean(x, [1]),
    ],
    ids=["dilated", "planar", "mean over padding that is not there", "channels", "lines"],
)
def test_other_forms_are_left_to_the_rest(kit: SimpleNamespace, body: Callable) -> None:
    report = Report()
    _, kernels = kit.lowered(kit.module(lambda _, x: body(x), (1, 8, 8, 6)), report)
    assert not report.decisions
    assert kernels
    assert not any("pool__" in name or "global_mean" in name for name in kernels)
