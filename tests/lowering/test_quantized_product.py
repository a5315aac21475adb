"""Mirror of tvmopt/lowering/quantized_product.py and requantize.py: bit for bit the reference.

The reference is the quantized graph evaluated as CONTRIBUTING.md says: exact sums, one float32
rounding for each operation, rint, clip.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from tvm import relax

from tvmopt import forms
from tvmopt.forms import Affine

SX, ZX, SY, ZY, SR, ZR = np.float32(0.02), 113, np.float32(0.05), 30, np.float32(0.04), 120
H, W, C, OUT = 10, 9, 16, 24
F32 = np.float32


def affine(scale: object, zero: int, dtype: str, axis: int = 0) -> Affine:
    return Affine(
        scale=np.asarray(scale, np.float32),
        zero_point=np.asarray(zero, np.int32),
        dtype=dtype,
        axis=axis,
    )


@dataclass(frozen=True)
class Case:
    """A quantized 3x3 convolution and what follows it."""

    largest: int
    bias: bool = True
    residual: bool = False
    activation: str = ""
    stored: bool = True

    def weight(self) -> np.ndarray:
        rng = np.random.default_rng(self.largest)
        return rng.integers(-self.largest, self.largest + 1, (OUT, 3, 3, C)).astype(np.int8)

    def scales(self) -> np.ndarray:
        return (np.random.default_rng(1).random(OUT) * 0.01 + 1e-3).astype(np.float32)

    def integers(self) -> np.ndarray:
        return np.random.default_rng(2).integers(-5000, 5000, OUT).astype(np.int32)

    def body(self, emit: object, x: relax.Var, r: relax.Var) -> relax.Expr:
        data, weight = affine(SX, ZX, "uint8"), affine(self.scales(), 0, "int8", axis=0)
        y = emit(
            relax.op.nn.conv2d(
                emit(forms.dequantize(x, data)),
                emit(forms.dequantize(relax.const(self.weight()), weight)),
                padding=(1, 1, 1, 1),
                data_layout="NHWC",
                kernel_layout="OHWI",
            ),
            "conv",
        )
        if self.bias:
            codes = relax.const(self.integers().reshape(1, 1, 1, OUT))
            unit = forms.bias_how(data, weight, 3)
            y = emit(relax.op.add(y, emit(forms.dequantize(codes, unit))))
        if self.residual:
            y = emit(relax.op.add(y, emit(forms.dequantize(r, affine(SR, ZR, "uint8")))))
        if self.activation == "relu":
            y = emit(relax.op.nn.relu(y))
        elif self.activation == "relu6":
            y = emit(relax.op.clip(y, 0.0, 6.0))
        elif self.activation == "hardswish":
            gate = emit(relax.op.clip(emit(relax.op.add(y, relax.const(F32(3)))), 0.0, 6.0))
            y = emit(relax.op.multiply(emit(relax.op.multiply(y, gate)), relax.const(F32(1 / 6))))
        return emit(forms.quantize(y, affine(SY, ZY, "uint8"))) if self.stored else y

    def reference(self, x: np.ndarray, r: np.ndarray) -> np.ndarray:
        real = np.pad(x.astype(np.int64) - ZX, ((0, 0), (1, 1), (1, 1), (0, 0)))
        sums = np.zeros((1, H, W, OUT), np.int64)
        for i in range(3):
            for j in range(3):
                sums += real[:, i : i + H, j : j + W] @ self.weight()[:, i, j].T.astype(np.int64)
        sums = sums + self.integers() if self.bias else sums
        unit = np.float64(SX) * self.scales().astype(np.float64)
        step = np.float64(SY) if self.stored and self.activation != "hardswish" else 1.0
        value = sums.astype(np.float32) * (unit / step).astype(np.float32)
        if self.residual:
            value = value + (r.astype(np.float32) - F32(ZR)) * F32(np.float64(SR) / step)
        if self.activation == "hardswish":
            gate = np.minimum(F32(6), np.maximum(F32(0), value + F32(3)))
            value = value * gate * F32(1 / 6)
            if self.stored:
                value = value * F32(1 / np.float64(SY))
        if not self.stored:
            bounds = {"relu": (0, np.inf), "relu6": (0, 6)}.get(self.activation)
            return np.clip(value, *map(F32, bounds)) if bounds else value
        low = ZY if self.activation.startswith("relu") else 0
        high = (
            min(255, ZY + int(np.rint(6 / np.float64(SY)))) if self.activation == "relu6" else 255
        )
        return np.clip(np.rint(value) + ZY, low, high).astype(np.uint8)


CASES = [
    Case(7),
    Case(64, residual=True, activation="relu"),
    Case(127, residual=True),
    Case(64, activation="relu6"),
    Case(64, residual=True, activation="relu6"),
    Case(64, activation="hardswish"),
    Case(64, bias=False),
    Case(127, stored=False, residual=True),
    Case(64, stored=False, activation="relu"),
    Case(7, stored=False, activation="hardswish"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_kernel_is_the_reference_bit_for_bit(
    kit: SimpleNamespace, execute: Callable[..., tuple[list[np.ndarray], list[str]]], case: Case
) -> None:
    rng = np.random.default_rng(7)
    x = rng.integers(0, 256, (1, H, W, C)).astype(np.uint8)
    r = rng.integers(0, 256, (1, H, W, OUT)).astype(np.uint8)
    mod = kit.module(case.body, x.shape, r.shape, dtype="uint8")
    (got,), names = execute(mod, x, r)
    assert len(names) == 1, names
    expected = case.reference(x, r)
    assert got.dtype == expected.dtype
    assert np.array_equal(got, expected), f"{(got != expected).mean():.2%} differ"


def test_a_float_convolution_stores_integers_itself(
    kit: SimpleNamespace, execute: Callable[..., tuple[list[np.ndarray], list[str]]]
) -> None:
    weight = np.random.default_rng(3).standard_normal((OUT, C)).astype(np.float32)

    def body(emit: object, x: relax.Var) -> relax.Expr:
        y = emit(relax.op.matmul(x, relax.const(np.ascontiguousarray(weight.T))), "linear")
        return emit(forms.quantize(y, affine(0.1, 128, "uint8")))

    x = np.random.default_rng(4).standard_normal((6, C)).astype(np.float32)
    (stored,), names = execute(kit.module(body, x.shape), x)
    assert stored.dtype == np.uint8
    assert "f32_qu8_gemm" in names[0]
    got = stored.astype(np.int64)
    exact = x.astype(np.float64) @ weight.T.astype(np.float64) / np.float64(F32(0.1)) + 128
    # c products and two more roundings: off by gamma_(c + 2) of the magnitudes before rint.
    slack = (C + 2) * 2.0**-24 * (np.abs(x) @ np.abs(weight.T)) / 0.1
    assert (got >= np.clip(np.rint(exact - slack - 1e-9), 0, 255)).all()
    assert (got <= np.clip(np.rint(exact + slack + 1e-9), 0, 255)).all()


def test_a_bias_in_other_units_is_added_as_a_float(
    kit: SimpleNamespace, execute: Callable[..., tuple[list[np.ndarray], list[str]]]
) -> None:
    codes, other = np.arange(OUT, dtype=np.int32), affine(np.full(OUT, 0.5), 0, "int32", axis=3)
    case = Case(64, bias=False, stored=False)

    def body(emit: object, x: relax.Var, r: relax.Var) -> relax.Expr:
        bias = emit(forms.dequantize(relax.const(codes.reshape(1, 1, 1, OUT)), other))
        return emit(relax.op.add(case.body(emit, x, r), bias))

    rng = np.random.default_rng(8)
    x = rng.integers(0, 256, (1, H, W, C)).astype(np.uint8)
    r = np.zeros((1, H, W, OUT), np.uint8)
    (got,), _ = execute(kit.module(body, x.shape, r.shape, dtype="uint8"), x, r)
    assert np.array_equal(got, case.reference(x, r) + codes.astype(np.float32) * F32(0.5))


WORD, WORD_OUT = np.float32(3e-4), np.float32(0.02)


def word_convolution(weight: np.ndarray, *, residual: bool) -> Callable[..., relax.Expr]:
    """Return a padded 3x3 convolution of words, a relu or a residual, stored as words."""
    data, how = affine(WORD, 0, "int16"), affine(0.004, 0, "int8")

    def body(emit: object, x: relax.Var, r: relax.Var) -> relax.Expr:
        real = emit(forms.dequantize(x, data))
        kernel = emit(forms.dequantize(relax.const(weight), how))
        layouts = {"data_layout": "NHWC", "kernel_layout": "OHWI"}
        y = emit(relax.op.nn.conv2d(real, kernel, padding=(1, 1, 1, 1), **layouts), "conv")
        if residual:
            y = emit(relax.op.add(y, emit(forms.dequantize(r, affine(SR, 0, "int16")))))
        else:
            y = emit(relax.op.nn.relu(y))
        return emit(forms.quantize(y, affine(WORD_OUT, 0, "int16")))

    return body


def word_sums(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    real = np.pad(x.astype(np.int64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(
        real[:, i : i + H, j : j + W] @ weight[:, i, j].T.astype(np.int64)
        for i in range(3)
        for j in range(3)
    )


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("channels", [C, 5])
def test_words_are_the_reference_bit_for_bit(
    kit: SimpleNamespace,
    execute: Callable[..., tuple[list[np.ndarray], list[str]]],
    residual: bool,
    channels: int,
) -> None:
    rng = np.random.default_rng(11)
    weight = rng.integers(-127, 128, (OUT, 3, 3, channels)).astype(np.int8)
    x = rng.integers(-32768, 32768, (1, H, W, channels)).astype(np.int16)
    r = rng.integers(-32768, 32768, (1, H, W, OUT)).astype(np.int16)
    body = word_convolution(weight, residual=residual)
    (got,), names = execute(kit.module(body, x.shape, r.shape, dtype="int16"), x, r)
    assert len(names) == 1
    assert "qs16_qc8w_qs16_" in names[0]
    step = np.float64(WORD_OUT)
    unit = F32(np.float64(WORD) * np.float64(F32(0.004)) / step)
    value = word_sums(x, weight).astype(np.float32) * unit
    if residual:
        value = value + r.astype(np.float32) * F32(np.float64(SR) / step)
    expected = np.clip(np.rint(value), -32768 if residual else 0, 32767).astype(np.int16)
    assert got.dtype == np.int16
    assert np.array_equal(got, expected), f"{(got != expected).mean():.2%} differ"


@pytest.mark.parametrize(("inputs", "fits"), [(516, True), (517, False)])
def test_sums_of_words_are_as_full_as_32_bits_and_no_fuller(
    kit: SimpleNamespace,
    execute: Callable[..., tuple[list[np.ndarray], list[str]]],
    inputs: int,
    fits: bool,
) -> None:
    # 516 * 2^15 * 127 = 2147352576 < 2^31 = 2147483648 < 517 * 2^15 * 127.
    weight = np.full((inputs, 8), 127, np.int8)
    how, data = affine(0.01, 0, "int8"), affine(WORD, 0, "int16")

    def body(emit: object, x: relax.Var) -> relax.Expr:
        real = emit(forms.dequantize(x, data))
        matrix = emit(forms.dequantize(relax.const(weight), how))
        return emit(relax.op.matmul(real, matrix), "linear")

    x = np.full((3, inputs), -32768, np.int16)
    (got,), names = execute(kit.module(body, x.shape, dtype="int16"), x)
    assert any("qs16" in name for name in names) == fits
    if fits:
        sums = x.astype(np.int64) @ weight.astype(np.int64)
        unit = F32(np.float64(WORD) * np.float64(F32(0.01)))
        assert np.array_equal(got, sums.astype(np.float32) * unit)


@pytest.mark.parametrize("zeros", ["tensor", "outputs"])
def test_weights_may_have_zero_points_and_reach_128(
    kit: SimpleNamespace,
    execute: Callable[..., tuple[list[np.ndarray], list[str]]],
    zeros: str,
) -> None:
    rng = np.random.default_rng(17)
    zero = np.full(OUT, 127) if zeros == "tensor" else rng.integers(100, 150, OUT)
    zero[0] = 127  # 255 - 127 is one more than 8 bits hold
    codes = rng.integers(0, 256, (OUT, 3, 3, C)).astype(np.uint8)
    codes[:, 0, 0, 0] = 255
    scales = np.full(OUT, 0.003, np.float32)
    how = Affine(scale=scales, zero_point=zero.astype(np.int32), dtype="uint8", axis=0)

    def body(emit: object, x: relax.Var) -> relax.Expr:
        data = emit(forms.dequantize(x, affine(SX, ZX, "uint8")))
        weight = emit(forms.dequantize(relax.const(codes), how))
        layouts = {"data_layout": "NHWC", "kernel_layout": "OHWI"}
        return emit(relax.op.nn.conv2d(data, weight, padding=(1, 1, 1, 1), **layouts), "conv")

    x = rng.integers(0, 256, (1, H, W, C)).astype(np.uint8)
    (got,), names = execute(kit.module(body, x.shape, dtype="uint8"), x)
    assert any(name.startswith("qu8_qc9w") for name in names)
    real = x.astype(np.int64) - ZX
    sums = word_sums(real, codes.astype(np.int64) - zero[:, None, None, None])
    unit = (np.float64(SX) * scales.astype(np.float64)).astype(np.float32)
    assert np.array_equal(got, sums.astype(np.float32) * unit)
