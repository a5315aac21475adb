"""Mirror of tvmopt/lowering/integer_product.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from tvm import relax

from tvmopt import forms

op = relax.op
Run = Callable[..., tuple[list[np.ndarray], list[str]]]
Emit = Callable[..., relax.Var]
RNG = np.random.default_rng(4)
K, N = 64, 24
WEIGHT = RNG.integers(-63, 64, (K, N)).astype(np.int8)


def quantized(x: np.ndarray) -> tuple[np.ndarray, np.float32, np.uint8]:
    """Return integers, scale and zero point as ONNX's DynamicQuantizeLinear has them."""
    low, high = np.float32(min(x.min(), 0)), np.float32(max(x.max(), 0))
    scale = (high - low) / np.float32(255)
    zero = np.rint(np.clip(0 - low / scale, 0, 255))
    return np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.int64), scale, np.uint8(zero)


def product(emit: Emit, x: relax.Expr, weight: relax.Expr) -> tuple[relax.Var, relax.Var]:
    """Return an integer product of ``x``, and the scale of it."""
    codes, scale, zero = forms.quantize_tensor(x, emit, "x")
    data = forms.center(codes, zero, emit, "x")
    return emit(op.matmul(data, weight), "layer"), scale


def test_an_imported_dynamic_layer_runs_on_an_integer_kernel(
    execute: Run, kit: SimpleNamespace
) -> None:
    scales = RNG.uniform(0.01, 0.02, N).astype(np.float32)
    bias = kit.array(N, seed=3)

    def body(emit: Emit, x: relax.Var) -> relax.Expr:
        weight = forms.center(relax.const(WEIGHT), None, emit, "w")
        sums, scale = product(emit, x, weight)
        unit = emit(op.multiply(scale, relax.const(scales)))
        real = emit(op.multiply(emit(op.astype(sums, "float32")), unit))
        return op.nn.relu(emit(op.add(real, relax.const(bias))))

    x = kit.array(2, 5, K)
    (y,), kernels = execute(kit.module(body, x.shape), x)
    (kernel,) = [name for name in kernels if "gemm" in name]
    assert kernel.startswith("qu8_qc7w_f32_pmaddubsw_gemm_mul_add_max_")
    codes, scale, zero = quantized(x)
    sums = (codes - int(zero)) @ WEIGHT.astype(int)
    # The integers are exact and below 2^24; the rest rounds once a step, in this order.
    unit = scale * scales
    exact = np.maximum(sums * unit.astype(np.float64) + bias, 0)
    assert np.abs(sums).max() < 2**24
    assert (np.abs(y - exact) <= 3 * 2.0**-24 * (np.abs(sums) * unit + np.abs(bias))).all()


def test_the_weights_may_have_a_zero_point_too(execute: Run, kit: SimpleNamespace) -> None:
    codes_of_weight = RNG.integers(0, 256, (K, N)).astype(np.uint8)
    zeros = RNG.integers(100, 150, N).astype(np.uint8)

    def body(emit: Emit, x: relax.Var) -> relax.Expr:
        weight = forms.center(relax.const(codes_of_weight), relax.const(zeros), emit, "w")
        return op.astype(product(emit, x, weight)[0], "float32")

    x = kit.array(3, K)
    (y,), kernels = execute(kit.module(body, x.shape), x)
    assert any("gemm" in name for name in kernels)
    codes, _, zero = quantized(x)
    wanted = (codes - int(zero)) @ (codes_of_weight.astype(int) - zeros)
    assert np.abs(wanted).max() < 2**24
    assert np.array_equal(y, wanted)


def test_sums_that_are_read_as_integers_are_left_alone(execute: Run, kit: SimpleNamespace) -> None:
    def body(emit: Emit, x: relax.Var) -> relax.Expr:
        weight = forms.center(relax.const(WEIGHT), None, emit, "w")
        return product(emit, x, weight)[0]

    x = kit.array(3, K)
    (y,), kernels = execute(kit.module(body, x.shape), x)
    assert not any("gemm" in name for name in kernels)
    codes, _, zero = quantized(x)
    assert y.dtype == np.int32
    assert np.array_equal(y, (codes - int(zero)) @ WEIGHT.astype(int))


def convolve(x: np.ndarray, weight: np.ndarray, pads: int, stride: int, groups: int) -> np.ndarray:
    """Return the NHWC convolution of integers, zeros around ``x``; weight: (o, kh, kw, c / g)."""
    x = np.pad(x, ((0, 0), (pads, pads), (pads, pads), (0, 0)))
    seen = np.lib.stride_tricks.sliding_window_view(x, weight.shape[1:3], (1, 2))
    seen = seen[:, ::stride, ::stride]
    cut = seen.reshape(*seen.shape[:3], groups, -1, *weight.shape[1:3])
    parts = weight.reshape(groups, -1, *weight.shape[1:])
    sums = np.einsum("nhwgcij,goijc->nhwgo", cut, parts)
    return sums.reshape(*seen.shape[:3], -1)


@dataclass(frozen=True)
class Conv:
    """An integer convolution of an image that is quantized at run time, or whose zero is known."""

    kernel: int = 3
    pads: int = 1
    stride: int = 1
    groups: int = 1
    largest: int = 127
    weight_zero: str = ""
    zero: int | None = None
    dtype: str = "uint8"
    out: int = 24
    kind: str = "conv"

    CHANNELS: ClassVar[int] = 16

    def codes(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the weight's integers and their zero points."""
        rng = np.random.default_rng(self.largest + self.kernel)
        size = (self.out, self.kernel, self.kernel, self.CHANNELS // self.groups)
        if not self.weight_zero:
            codes = rng.integers(-self.largest, self.largest + 1, size).astype(np.int8)
            return codes, np.zeros((), np.int8)
        shape = (self.out, 1, 1, 1) if self.weight_zero == "outputs" else ()
        return (
            rng.integers(0, 256, size).astype(np.uint8),
            rng.integers(90, 160, shape).astype(np.uint8),
        )

    def body(self, emit: Emit, x: relax.Var) -> relax.Expr:
        codes, zero = self.codes()
        known = relax.const(zero) if self.weight_zero else None
        weight = forms.center(relax.const(codes), known, emit, "w")
        if self.zero is None:
            x, _, at = forms.quantize_tensor(x, emit, "x")
        else:
            at = relax.const(np.array(self.zero, self.dtype))
        layouts = {"data_layout": "NHWC", "kernel_layout": "OHWI"}
        attrs = {"strides": self.stride, "padding": self.pads, "groups": self.groups, **layouts}
        data = forms.center(x, at, emit, "x")
        return op.astype(emit(op.nn.conv2d(data, weight, **attrs), "layer"), "float32")

    def reference(self, x: np.ndarray) -> np.ndarray:
        codes, zero = self.codes()
        at = self.zero
        if at is None:
            x, _, found = quantized(x)
            at = int(found)
        weight = codes.astype(np.int64) - zero.astype(np.int64)
        return convolve(x.astype(np.int64) - at, weight, self.pads, self.stride, self.groups)


CONVS = [
    Conv(),
    Conv(largest=7),
    Conv(largest=63, stride=2),
    Conv(kernel=1, pads=0, kind="gemm"),
    Conv(kernel=1, pads=1),
    Conv(kernel=5, pads=2, groups=2),
    Conv(weight_zero="tensor"),
    Conv(weight_zero="outputs", stride=2),
    Conv(groups=16, out=16, kind="dwconv"),
    Conv(groups=16, out=16, kind="dwconv", weight_zero="outputs", stride=2),
    Conv(groups=16, out=32),
    Conv(zero=200),
    Conv(zero=-90, dtype="int8", largest=7),
    Conv(zero=255, weight_zero="tensor"),
    Conv(zero=128, groups=16, out=16, kind="dwconv"),
]


@pytest.mark.parametrize("case", CONVS, ids=str)
def test_integer_convolutions_run_on_integer_kernels(
    execute: Run, kit: SimpleNamespace, case: Conv
) -> None:
    shape = (2, 9, 8, case.CHANNELS)
    x = kit.array(*shape, seed=5) + np.float32(0.3)
    dtype = "float32"
    if case.zero is not None:
        dtype, info = case.dtype, np.iinfo(case.dtype)
        x = RNG.integers(info.min, info.max + 1, shape).astype(dtype)
    (y,), kernels = execute(kit.module(case.body, shape, dtype=dtype), x)
    wanted = case.reference(x)
    assert any(f"{case.kind}_" in name or "winograd" in name for name in kernels), kernels
    assert not any("conv2d" in name for name in kernels)
    assert np.abs(wanted).max() < 2**24  # what float32 holds exactly
    assert np.array_equal(y, wanted)


def test_padding_with_what_is_no_activation_is_left_alone(
    execute: Run, kit: SimpleNamespace
) -> None:
    def body(emit: Emit, x: relax.Var) -> relax.Expr:
        data = forms.center(x, relax.const(np.array(-3, np.int32)), emit, "x")
        weight = forms.center(relax.const(weights), None, emit, "w")
        layouts = {"data_layout": "NHWC", "kernel_layout": "OHWI"}
        return op.astype(emit(op.nn.conv2d(data, weight, padding=1, **layouts), "layer"), "float32")

    weights = RNG.integers(-31, 32, (8, 3, 3, 4)).astype(np.int8)
    x = RNG.integers(0, 256, (1, 5, 5, 4)).astype(np.uint8)
    (y,), kernels = execute(kit.module(body, x.shape, dtype="uint8"), x)
    assert not any(name.startswith("qu8") for name in kernels)
    wanted = convolve(x.astype(np.int64) + 3, weights.astype(np.int64), 1, 1, 1)
    assert np.array_equal(y, wanted)


@pytest.mark.parametrize(
    ("attrs", "kind"),
    [
        ({}, "conv_mul"),
        ({"kernel": 1, "pads": 0}, "gemm_mul"),
        ({"groups": 16, "out": 16}, "dwconv_mul"),
        ({"zero": 3, "largest": 7, "out": 64}, "winograd_mul"),
    ],
)
def test_one_scale_of_run_time_is_part_of_the_kernel(
    execute: Run, kit: SimpleNamespace, attrs: dict[str, Any], kind: str
) -> None:
    case = Conv(**attrs)
    known = case.zero is not None  # the scale is not, in either case

    def body(emit: Emit, x: relax.Var) -> relax.Expr:
        codes, scale, at = forms.quantize_tensor(x, emit, "x")
        at = relax.const(np.array(case.zero, np.uint8)) if known else at
        weight = forms.center(relax.const(case.codes()[0]), None, emit, "w")
        layouts = {"data_layout": "NHWC", "kernel_layout": "OHWI"}
        attrs = {"padding": case.pads, "groups": case.groups, **layouts}
        data = forms.center(codes, at, emit, "x")
        sums = emit(op.astype(emit(op.nn.conv2d(data, weight, **attrs), "layer"), "float32"))
        return op.multiply(sums, emit(op.multiply(scale, relax.const(np.float32(0.01)))))

    x = kit.array(1, 12, 12, case.CHANNELS, seed=5) + np.float32(0.3)
    (y,), kernels = execute(kit.module(body, x.shape), x)
    assert any(kind in name for name in kernels), kernels
    codes, scale, zero = quantized(x)
    at = case.zero if case.zero is not None else int(zero)
    sums = convolve(codes - at, case.codes()[0].astype(int), case.pads, 1, case.groups)
    assert np.abs(sums).max() < 2**24
    assert np.array_equal(y, sums.astype(np.float32) * (scale * np.float32(0.01)))
