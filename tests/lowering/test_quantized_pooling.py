"""Mirror of tvmopt/lowering/quantized_pooling.py, and of pooling.py where it keeps integers."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from tvm import relax

from tvmopt import forms
from tvmopt.forms import Affine

op = relax.op
Emit = Callable[..., relax.Var]
Execute = Callable[..., tuple[list[np.ndarray], list[str]]]
SHAPE = (1, 6, 8, 20)
X = np.random.default_rng(8).integers(0, 256, SHAPE).astype(np.uint8)
CENTRED = X.astype(np.int64) - 119


def affine(scale: float, zero: int, dtype: str = "uint8") -> Affine:
    return Affine(scale=np.float32(scale), zero_point=np.int32(zero), dtype=dtype)


IN, OUT = affine(0.0231, 119), affine(0.0412, 8)


def stored(value: np.ndarray, low: int = 0) -> np.ndarray:
    assert value.dtype == np.float32
    return np.clip(np.rint(value) + 8, low, 255).astype(np.uint8)


def factor(taps: int) -> np.float32:
    return np.float32(np.float64(IN.scale) / np.float64(OUT.scale) / taps)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_a_maximum_of_integers_keeps_them(
    kit: SimpleNamespace, execute: Execute, dtype: str
) -> None:
    mod = kit.module(
        lambda _, x: op.nn.max_pool2d(x, (2, 2), (2, 2), layout="NHWC"), SHAPE, dtype=dtype
    )
    x = X.view(dtype)
    (got,), names = execute(mod, x)
    assert names == [f"{dtype[0].replace('i', 's')}8_maxpool__{kit.ISA}"]
    assert np.array_equal(got, x.reshape(1, 3, 2, 4, 2, 20).max((2, 4)))


def test_a_mean_over_windows_is_rounded_once(kit: SimpleNamespace, execute: Execute) -> None:
    def body(emit: Emit, x: relax.Var) -> relax.Expr:
        mean = op.nn.avg_pool2d(emit(forms.dequantize(x, IN)), (2, 2), (2, 2), layout="NHWC")
        return forms.quantize(emit(op.nn.relu(emit(mean))), OUT)

    (got,), names = execute(kit.module(body, SHAPE, dtype="uint8"), X)
    assert len(names) == 1
    assert names[0].startswith("qu8_avgpool")
    sums = CENTRED.reshape(1, 3, 2, 4, 2, 20).sum((2, 4)).astype(np.float32)
    assert np.array_equal(got, stored(sums * factor(4), 8))


@pytest.mark.parametrize("count_pad", [False, True])
def test_padding_counts_or_not(kit: SimpleNamespace, execute: Execute, *, count_pad: bool) -> None:
    def body(emit: Emit, x: relax.Var) -> relax.Expr:
        real = emit(forms.dequantize(x, IN))
        mean = op.nn.avg_pool2d(
            real, (3, 3), (1, 1), (1, 1), count_include_pad=count_pad, layout="NHWC"
        )
        return forms.quantize(emit(mean), OUT)

    (got,), names = execute(kit.module(body, SHAPE, dtype="uint8"), X)
    assert len(names) == 1

    def windows(x: np.ndarray) -> np.ndarray:
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        seen = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
        return seen.sum((4, 5))

    counts = windows(np.ones(SHAPE, np.int64))
    factors = np.array([factor(9 if count_pad else n) for n in range(1, 10)])
    expected = windows(CENTRED).astype(np.float32) * factors[counts - 1]
    assert np.array_equal(got, stored(expected))


@pytest.mark.parametrize("keep", [False, True])
def test_the_mean_of_an_image_may_stay_float(
    kit: SimpleNamespace, execute: Execute, *, keep: bool
) -> None:
    def body(emit: Emit, x: relax.Var) -> relax.Expr:
        return op.mean(emit(forms.dequantize(x, IN)), [1, 2], keepdims=keep)

    (got,), names = execute(kit.module(body, SHAPE, dtype="uint8"), X)
    assert len(names) == 1
    assert names[0].startswith("qu8_f32_gavgpool")
    sums = CENTRED.sum((1, 2), keepdims=keep).astype(np.float32)
    assert np.array_equal(got, sums * np.float32(np.float64(IN.scale) / 48))


def test_what_does_not_commute_follows_on_real_numbers(
    kit: SimpleNamespace, execute: Execute
) -> None:
    def body(emit: Emit, x: relax.Var) -> relax.Expr:
        mean = emit(op.mean(emit(forms.dequantize(x, IN)), [1, 2], keepdims=True))
        return forms.quantize(emit(op.multiply(mean, mean)), OUT)

    (got,), names = execute(kit.module(body, SHAPE, dtype="uint8"), X)
    assert len(names) == 1
    mean = CENTRED.sum((1, 2), keepdims=True).astype(np.float32) * np.float32(
        np.float64(IN.scale) / 48
    )
    assert np.array_equal(got, stored(mean * mean * np.float32(1 / np.float64(OUT.scale))))


def test_a_scale_for_each_channel_is_left_to_floats(kit: SimpleNamespace) -> None:
    how = Affine(scale=np.full(20, 0.1, np.float32), zero_point=np.int32(0), dtype="uint8", axis=3)
    mod = kit.module(
        lambda emit, x: op.mean(emit(forms.dequantize(x, how)), [1, 2]), SHAPE, dtype="uint8"
    )
    _, names = kit.lowered(mod)
    assert not [name for name in names if name.startswith("qu8")]
