"""Mirror of tvmopt/lowering/convolution.py."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from tvm import relax

from tvmopt import ir
from tvmopt.report import Report

op = relax.op
Check = Callable[..., list[str]]


def test_convolution_bias_and_relu_are_one_kernel(kit: SimpleNamespace, check: Check) -> None:
    mod = kit.module(
        lambda _, x: op.nn.relu(op.add(kit.conv(x, 20, strides=(2, 2)), kit.bias(20))),
        (1, 9, 9, 6),
    )
    (kernel,) = check(mod)
    assert kernel.startswith("f32_conv_add_max_")
    assert kernel.endswith(f"__{kit.ISA}")


def test_a_residual_goes_with_the_convolution_that_is_computed_last(
    kit: SimpleNamespace, check: Check
) -> None:
    def body(emit: Callable, x: relax.Var) -> relax.Expr:
        first = emit(op.add(kit.conv(x, 8, seed=1), kit.bias(8)), "first")
        second = emit(op.add(kit.conv(x, 8, 1, seed=2), kit.bias(8, seed=3)), "second")
        return op.nn.relu(op.add(first, second))

    mod = kit.module(body, (1, 7, 7, 5))
    first, second = check(mod, winograd=False)
    assert first.startswith("f32_conv_add_")
    assert second.startswith("f32_gemm_add_add_max_")  # its own bias, the other's sum, relu


def test_a_block_of_two_convolutions_and_its_input_are_two_kernels(
    kit: SimpleNamespace, check: Check
) -> None:
    def body(emit: Callable, x: relax.Var) -> relax.Expr:
        inner = emit(op.nn.relu(op.add(kit.conv(x, 8, seed=1), kit.bias(8))))
        outer = emit(op.add(kit.conv(inner, 8, seed=2), kit.bias(8)))
        return op.nn.relu(op.add(outer, x))

    first, second = check(kit.module(body, (2, 6, 5, 8)), winograd=False)
    assert "_add_max_" in first
    assert "_add_add_max_" in second


@pytest.mark.parametrize(
    ("attrs", "kernel", "channels", "kind"),
    [
        ({"groups": 8}, 3, 8, "dwconv"),
        ({"groups": 8, "strides": (2, 2), "dilation": (2, 2)}, 3, 8, "dwconv"),
        ({"groups": 4}, 3, 12, "conv"),
        ({"groups": 4}, 3, 4, "conv"),  # two outputs for each input channel
        ({"dilation": (2, 1), "padding": (2, 1)}, 3, 5, "conv"),
        ({"padding": (0, 3)}, (1, 7), 6, "conv"),  # what a 1-D convolution becomes
        ({}, 1, 7, "gemm"),
        ({"strides": (2, 2)}, 1, 7, "conv"),
        ({"padding": (1, 1)}, 1, 7, "conv"),
        ({"padding": (0, 1, 2, 0)}, 2, 7, "conv"),
    ],
    ids=lambda value: str(value),
)
def test_each_form_gets_the_kernel_for_it(
    kit: SimpleNamespace, check: Check, attrs: dict, kernel: object, channels: int, kind: str
) -> None:
    mod = kit.module(lambda _, x: kit.conv(x, 8, kernel, **attrs), (1, 9, 8, channels))
    (name,) = check(mod)
    assert name.startswith(f"f32_{kind}_")


def test_a_planar_input_is_read_as_it_lies(kit: SimpleNamespace, check: Check) -> None:
    def body(emit: Callable, x: relax.Var) -> relax.Expr:
        return kit.conv(emit(op.permute_dims(x, [0, 2, 3, 1])), 16, strides=(2, 2))

    assert len(check(kit.module(body, (2, 3, 9, 10)))) == 1


@pytest.mark.parametrize("channels", [2, 5])
def test_a_planar_input_that_others_read_or_of_many_channels_is_permuted(
    kit: SimpleNamespace, check: Check, channels: int
) -> None:
    def body(emit: Callable, x: relax.Var) -> relax.Expr:
        y = emit(op.permute_dims(x, [0, 2, 3, 1]))
        out = emit(kit.conv(y, 6, strides=(2, 2)))
        return (out, emit(op.nn.max_pool2d(y, (2, 2), layout="NHWC"))) if channels == 2 else out

    names = check(kit.module(body, (1, channels, 8, 8)))
    assert len(names) == (3 if channels == 2 else 2)
    assert any("conv" in name for name in names)


def test_weights_in_another_order_are_turned(kit: SimpleNamespace, check: Check) -> None:
    weight = kit.const(3, 3, 5, 8, scale=0.15)
    mod = kit.module(
        lambda _, x: op.nn.conv2d(
            x, weight, strides=(2, 2), data_layout="NHWC", kernel_layout="HWIO"
        ),
        (1, 8, 8, 5),
    )
    assert [name[:8] for name in check(mod)] == ["f32_conv"]


def test_a_convolution_by_an_activation_is_left_alone(kit: SimpleNamespace) -> None:
    mod = kit.module(
        lambda _, x, w: op.nn.conv2d(x, w, data_layout="NHWC", kernel_layout="OHWI"),
        (1, 6, 6, 4),
        (8, 3, 3, 4),
    )
    report = Report()
    _, names = kit.lowered(mod, report)
    assert names == ["f32_conv2d"]  # named by the schedule of the rest: no tile, no machine
    assert not report.decisions


def test_the_report_names_site_and_kernel(kit: SimpleNamespace) -> None:
    def body(emit: Callable, x: relax.Var) -> relax.Expr:
        y = emit(kit.conv(x, 16, strides=(2, 2)), "stem")
        return kit.conv(y, 16, groups=16)

    report = Report()
    _, names = kit.lowered(kit.module(body, (1, 16, 12, 3)), report)
    assert [(d.pass_name, d.site, d.applied) for d in report.decisions] == [
        ("Lower", "conv 3x3/2x2 1x16x12x3 -> 16", True),
        ("Lower", "depthwise 3x3/1x1 1x8x6x16 -> 16", True),
    ]
    assert [d.reason for d in report.decisions] == names


def test_a_layer_keeps_the_name_of_its_operator(kit: SimpleNamespace) -> None:
    def body(emit: Callable, x: relax.Var) -> relax.Expr:
        y = emit(kit.conv(x, 8, strides=(2, 2)), "stem_conv")
        return emit(op.nn.relu(emit(op.add(y, kit.bias(8)), "stem_bias")), "stem_relu")

    result, _ = kit.lowered(kit.module(body, (1, 8, 8, 3)))
    names = [
        var.name
        for var, value in ir.bindings(result["main"])
        if ir.is_call_to(value, "relax.call_tir")
    ]
    assert names == ["stem_conv"]


def test_equal_convolutions_share_a_kernel(kit: SimpleNamespace, check: Check) -> None:
    def body(emit: Callable, x: relax.Var) -> relax.Expr:
        y = emit(kit.conv(x, 8, seed=1, groups=2))
        return kit.conv(y, 8, seed=2, groups=2)

    mod = kit.module(body, (1, 6, 6, 8))
    assert len(check(mod)) == 2
    result, _ = kit.lowered(mod)
    kernels = [func for _, func in result.functions_items() if not isinstance(func, relax.Function)]
    assert len(kernels) == 1


def test_a_kernel_says_its_work(kit: SimpleNamespace) -> None:
    result, _ = kit.lowered(kit.module(lambda _, x: kit.conv(x, 8, 1), (1, 4, 4, 5)))
    (macs,) = (
        int(func.attrs["tvmopt.macs"])
        for _, func in result.functions_items()
        if not isinstance(func, relax.Function)
    )
    assert macs == np.prod([4, 4, 5, 8])
