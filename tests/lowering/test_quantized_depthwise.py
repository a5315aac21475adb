"""Mirror of tvmopt/lowering/quantized_depthwise.py."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
from tvm import relax

from tvmopt import forms
from tvmopt.forms import Affine

op = relax.op
Emit = Callable[..., relax.Var]
Execute = Callable[..., tuple[list[np.ndarray], list[str]]]
C = 24
SHAPE = (1, 9, 10, C)
RNG = np.random.default_rng(4)
WEIGHT = RNG.integers(-127, 128, (C, 3, 3, 1)).astype(np.int8)
BIAS = RNG.integers(-4000, 4000, C).astype(np.int32)
X = RNG.integers(0, 256, SHAPE).astype(np.uint8)
R = RNG.integers(0, 256, SHAPE).astype(np.uint8)


def affine(scale: float | np.ndarray, zero: int = 0, dtype: str = "uint8", axis: int = 0) -> Affine:
    return Affine(
        scale=np.asarray(scale, np.float32),
        zero_point=np.asarray(zero, np.int32),
        dtype=dtype,
        axis=axis,
    )


DATA, RESIDUAL, OUT = affine(0.0231, 119), affine(0.0193, 77), affine(0.0412, 8)
SCALES = RNG.uniform(1e-3, 9e-3, C).astype(np.float32)
FILTER = affine(SCALES, 0, "int8")
UNIT = np.float64(DATA.scale) * SCALES.astype(np.float64)


def convolved(
    emit: Emit, x: relax.Expr, *, bias: np.ndarray | None = None, how: Affine = FILTER
) -> relax.Expr:
    """Return the depthwise convolution of dequantized operands, its bias added."""
    real = emit(forms.dequantize(x, DATA))
    weight = emit(forms.dequantize(relax.const(WEIGHT), how))
    layouts = {"data_layout": "NHWC", "kernel_layout": "OHWI", "groups": C}
    y = emit(op.nn.conv2d(real, weight, padding=(1, 1), **layouts), "dw")
    if bias is None:
        return y
    unit = affine(DATA.scale * how.scale, 0, "int32", axis=3)
    return emit(op.add(y, emit(forms.dequantize(relax.const(bias.reshape(1, 1, 1, C)), unit))))


def sums(x: np.ndarray) -> np.ndarray:
    """Return what the convolution adds up, exactly."""
    centred = np.pad(x.astype(np.int64) - DATA.zero_point, ((0, 0), (1, 1), (1, 1), (0, 0)))
    seen = np.lib.stride_tricks.sliding_window_view(centred, (3, 3), (1, 2))
    return np.einsum("nhwcij,cij->nhwc", seen, WEIGHT[..., 0].astype(np.int64))


def stored(value: np.ndarray, low: int = 0) -> np.ndarray:
    assert value.dtype == np.float32
    return np.clip(np.rint(value) + OUT.zero_point, low, 255).astype(np.uint8)


def test_scales_are_folded_and_the_result_is_exact(kit: SimpleNamespace, execute: Execute) -> None:
    def body(emit: Emit, x: relax.Var) -> relax.Expr:
        return forms.quantize(emit(op.nn.relu(convolved(emit, x, bias=BIAS))), OUT)

    (got,), names = execute(kit.module(body, SHAPE, dtype="uint8"), X)
    assert names == [f"qu8_qc8w_qu8_dwconv_scale_10x16__{kit.ISA}"]
    factor = (UNIT / np.float64(OUT.scale)).astype(np.float32)
    assert np.array_equal(got, stored((sums(X) + BIAS).astype(np.float32) * factor, 8))


def test_a_residual_is_added_in_steps_of_the_output(kit: SimpleNamespace, execute: Execute) -> None:
    def body(emit: Emit, x: relax.Var, r: relax.Var) -> relax.Expr:
        other = emit(forms.dequantize(r, RESIDUAL))
        return forms.quantize(emit(op.add(convolved(emit, x), other)), OUT)

    (got,), names = execute(kit.module(body, SHAPE, SHAPE, dtype="uint8"), X, R)
    assert len(names) == 1
    step = np.float64(OUT.scale)
    value = sums(X).astype(np.float32) * (UNIT / step).astype(np.float32)
    other = (R.astype(np.float32) - np.float32(77)) * np.float32(np.float64(RESIDUAL.scale) / step)
    assert np.array_equal(got, stored(value + other))


def test_a_float_output_is_rounded_once(kit: SimpleNamespace, execute: Execute) -> None:
    (got,), names = execute(kit.module(lambda emit, x: convolved(emit, x), SHAPE, dtype="uint8"), X)
    assert len(names) == 1
    assert names[0].startswith("qu8_qc8w_f32_dwconv_scale_")
    assert np.array_equal(got, sums(X).astype(np.float32) * UNIT.astype(np.float32))


def test_a_bias_beyond_float32_s_integers_is_added_at_the_end(
    kit: SimpleNamespace, execute: Execute
) -> None:
    # Odd numbers beyond 2**24: one float32 rounding of the exact sum, and no other.
    bias = np.where(np.arange(C) % 2, 2**30 - 2 * BIAS.astype(np.int64) + 1, BIAS).astype(np.int32)

    def body(emit: Emit, x: relax.Var, r: relax.Var) -> relax.Expr:
        other = emit(forms.dequantize(r, RESIDUAL))
        return op.add(convolved(emit, x, bias=bias), other)

    (got,), names = execute(kit.module(body, SHAPE, SHAPE, dtype="uint8"), X, R)
    assert names == [f"qu8_qc8w_f32_dwconv_add_scale_sub_scale_add_10x16__{kit.ISA}"]
    value = (sums(X) + bias).astype(np.float32) * UNIT.astype(np.float32)
    other = (R.astype(np.float32) - np.float32(77)) * RESIDUAL.scale
    assert np.array_equal(got, value + other)


def test_sums_beyond_float32_s_integers_are_added_up_in_integers(kit: SimpleNamespace) -> None:
    weight = np.full((4, 33, 33, 1), 127, np.int8)
    how = affine(np.full(4, 0.01), 0, "int8")

    def body(emit: Emit, x: relax.Var) -> relax.Expr:
        w = emit(forms.dequantize(relax.const(weight), how))
        layouts = {"data_layout": "NHWC", "kernel_layout": "OHWI", "groups": 4}
        return op.nn.conv2d(emit(forms.dequantize(x, DATA)), w, padding=(16, 16), **layouts)

    _, names = kit.lowered(kit.module(body, (1, 9, 9, 4), dtype="uint8"))
    assert len(names) == 1
    assert "dwconv" not in names[0]


def test_scales_along_the_taps_are_left_to_floats(kit: SimpleNamespace) -> None:
    how = affine(np.array([0.01, 0.02, 0.03]), 0, "int8", axis=1)
    mod = kit.module(lambda emit, x: convolved(emit, x, how=how), SHAPE, dtype="uint8")
    _, names = kit.lowered(mod)
    assert not [name for name in names if name.startswith("qu8_qc8w")]
