"""Mirror of tvmopt/lowering/dynamic.py."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from tvm import relax

from tvmopt import forms
from tvmopt.forms import Affine, Dequantized, Grouped, Stored

op = relax.op
Run = Callable[..., tuple[list[np.ndarray], list[str]]]
Emit = Callable[..., relax.Var]

K, N = 64, 24
RNG = np.random.default_rng(6)


def by_channel(limit: int, scalar: bool = False) -> Dequantized:
    scale = np.float32(0.25) if scalar else RNG.uniform(0.5, 2, N).astype(np.float32)
    how = Affine(
        scale=np.asarray(scale),
        zero_point=np.zeros(np.shape(scale), np.int32),
        dtype="int8",
        axis=1,
    )
    return Dequantized(codes=RNG.integers(-limit, limit + 1, (K, N)).astype(np.int8), how=how)


def by_group() -> Grouped:
    codes = RNG.integers(-8, 8, (K // 32, 32, N)).astype(np.int8)
    scale = RNG.uniform(0.5, 2, (K // 32, 1, N)).astype(np.float32)
    return Grouped(codes=codes, scale=scale, zero=None, axis=0)


def quantized(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the integers and the scale of each row."""
    peak = np.maximum(np.abs(x).max(-1, keepdims=True), forms.rows.SMALLEST)
    scale = peak * np.float32(1 / 127)
    return np.clip(np.rint(x / scale), -127, 127).astype(np.int64), scale


WEIGHTS = {
    "qc8w": by_channel(127),
    "qc7w": by_channel(63),
    "qc4w": by_channel(7, scalar=True),
    "qb4w": by_group(),
}


@pytest.mark.parametrize("shape", [(1, K), (2, 5, K)], ids=str)
def test_a_dynamic_layer_is_two_kernels(
    execute: Run, kit: SimpleNamespace, shape: tuple[int, ...]
) -> None:
    bias = kit.array(N, seed=3)

    def body(emit: Emit, *inputs: relax.Var) -> tuple[relax.Expr, ...]:
        found = []
        for x, stored in zip(inputs, WEIGHTS.values(), strict=True):
            rows = forms.quantize_rows(x, emit, "rows")
            product = emit(op.matmul(rows, stored.build(emit, "w")), "layer")
            found.append(emit(op.nn.relu(emit(op.add(product, relax.const(bias))))))
        return tuple(found)

    inputs = [kit.array(*shape, seed=i) for i in range(len(WEIGHTS))]
    found, kernels = execute(kit.module(body, *([shape] * len(WEIGHTS))), *inputs)
    assert [kernel.split("_")[1] for kernel in kernels[::2]] == ["quantize"] * len(WEIGHTS)
    assert all(kernel.startswith("qd8_q") for kernel in kernels[1::2])

    for x, stored, y in zip(inputs, WEIGHTS.values(), found, strict=True):
        codes, scale = quantized(x)
        weight = stored.value().astype(np.float64)
        exact = np.maximum((codes @ weight) * scale.astype(np.float64) + bias, 0)
        # The sums of a group are exact; the two scales, the sums of groups, the bias and the
        # weights' own rounding (stored.value() is float32) are one each: seven of two groups.
        size = (np.abs(codes) @ np.abs(weight)) * scale + np.abs(bias)
        assert (np.abs(y - exact) <= 7 * 2.0**-24 * size).all()


@pytest.mark.parametrize("m", [1, 40])
def test_a_pruned_dynamic_layer_leaves_its_zeros_out(
    execute: Run, kit: SimpleNamespace, m: int
) -> None:
    rng = np.random.default_rng(7)
    k, n = 256, 64
    kept = np.repeat(np.repeat(rng.random((k // 4, n // 16)) < 0.2, 4, 0), 16, 1)
    codes = (rng.integers(-63, 64, (k, n)) * kept).astype(np.int8)
    how = Affine(
        scale=rng.uniform(0.5, 2.0, n).astype(np.float32),
        zero_point=np.zeros(n, np.int32),
        dtype="int8",
        axis=1,
    )
    stored = Dequantized(codes=codes, how=how)

    def body(emit: Emit, x: relax.Var) -> relax.Expr:
        rows = forms.quantize_rows(x, emit, "rows")
        return op.matmul(rows, stored.build(emit, "w"))

    x = kit.array(m, k)
    (got,), kernels = execute(kit.module(body, x.shape), x)
    assert "_sparse_" in kernels[-1]
    data, scale = quantized(x)
    # The sums are exact; the two scales round once each.
    exact = (data @ codes.astype(np.int64)) * scale.astype(np.float64) * how.scale
    assert (np.abs(got - exact) <= 2 * 2.0**-24 * np.abs(exact)).all()


def test_products_of_the_same_rows_share_their_bytes(execute: Run, kit: SimpleNamespace) -> None:
    weights: list[Stored] = [by_channel(63), by_channel(63), by_group()]

    def body(emit: Emit, x: relax.Var) -> tuple[relax.Expr, ...]:
        rows = forms.quantize_rows(x, emit, "rows")
        return tuple(emit(op.matmul(rows, w.build(emit, "w"))) for w in weights)

    x = kit.array(3, K)
    found, kernels = execute(kit.module(body, (3, K)), x)
    assert sum("quantize_rows" in kernel for kernel in kernels) == 1
    assert len(kernels) == 4
    codes, scale = quantized(x)
    for y, w in zip(found, weights, strict=True):
        assert np.allclose(y, (codes @ w.value()) * scale, rtol=1e-5, atol=1e-3)


def test_who_reads_the_float_rows_gets_them(execute: Run, kit: SimpleNamespace) -> None:
    stored = by_channel(63)

    def body(emit: Emit, x: relax.Var) -> tuple[relax.Expr, relax.Expr]:
        rows = forms.quantize_rows(x, emit, "rows")
        return emit(op.matmul(rows, stored.build(emit, "w"))), emit(op.nn.relu(rows))

    x = kit.array(3, K)
    (_, second), kernels = execute(kit.module(body, (3, K)), x)
    codes, scale = quantized(x)
    assert np.array_equal(second, np.maximum(codes.astype(np.float32) * scale, 0))
    assert any(kernel.startswith("qd8_") for kernel in kernels)


def test_a_product_of_two_quantized_activations_is_left_to_floats(
    execute: Run, kit: SimpleNamespace
) -> None:
    def body(emit: Emit, x: relax.Var, y: relax.Var) -> relax.Expr:
        return op.matmul(forms.quantize_rows(x, emit, "rows"), y)

    x, y = kit.array(3, K), kit.array(K, N, seed=1)
    (got,), kernels = execute(kit.module(body, (3, K), (K, N)), x, y)
    assert not any(kernel.startswith("qd8_") for kernel in kernels)
    codes, scale = quantized(x)
    assert np.allclose(got, (codes @ y) * scale, rtol=1e-5, atol=1e-4)
