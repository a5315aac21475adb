"""Mirror of tvmopt/lowering/transposed_convolution.py."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from tvm import relax

from tvmopt.report import Report

op = relax.op
LAYOUTS = {"data_layout": "NHWC", "kernel_layout": "OHWI"}


@pytest.mark.parametrize(
    "attrs",
    [
        {"strides": (2, 2)},
        {"strides": (2, 2), "padding": (1, 1, 1, 1), "output_padding": (1, 1)},
        {"strides": (3, 1), "padding": (1, 0, 0, 1)},
    ],
    ids=["plain", "output padding", "asymmetric"],
)
def test_it_gets_a_kernel_with_bias_and_relu(
    kit: SimpleNamespace, check: Callable[..., list[str]], attrs: dict
) -> None:
    weight = kit.const(9, 3, 3, 5, scale=0.2)

    def body(emit: Callable, x: relax.Var) -> relax.Expr:
        y = emit(op.nn.conv2d_transpose(x, weight, **LAYOUTS, **attrs))
        return op.nn.relu(emit(op.add(y, kit.bias(9))))

    (kernel,) = check(kit.module(body, (2, 4, 3, 5)))
    assert kernel.startswith("f32_conv_transpose_add_max_")


def test_the_report_names_the_site(kit: SimpleNamespace) -> None:
    weight, report = kit.const(9, 2, 2, 5), Report()
    mod = kit.module(
        lambda _, x: op.nn.conv2d_transpose(x, weight, strides=(2, 2), **LAYOUTS), (1, 4, 3, 5)
    )
    kit.lowered(mod, report)
    assert [d.site for d in report.decisions] == ["conv_transpose 2x2 1x4x3x5 -> 9"]
