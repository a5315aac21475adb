"""Mirror of tvmopt/lowering/integer_product.py."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
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
