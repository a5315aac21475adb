"""Mirror of tvmopt/lowering/sparse_choice.py: zeros that lie in blocks get kernels without them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from tvm import relax

from tvmopt import forms


def blocks(
    shape: tuple[int, ...], outputs: int, inputs: int, zeros: float, seed: int
) -> np.ndarray:
    """Return a mask (o, ...) of blocks, so many of which are 0."""
    o, size = shape[0], int(np.prod(shape[1:]))
    kept = np.random.default_rng(seed).random((o // outputs, size // inputs)) >= zeros
    return np.repeat(np.repeat(kept, outputs, 0), inputs, 1).reshape(shape)


def linear(weight: np.ndarray) -> Callable[..., relax.Expr]:
    def body(emit: Callable[..., relax.Var], x: relax.Var) -> relax.Expr:
        y = emit(relax.op.matmul(x, relax.const(weight)), "linear")
        return emit(relax.op.nn.relu(y))

    return body


@pytest.mark.parametrize("outputs", [16, 8])
def test_a_pruned_linear_layer_leaves_its_zeros_out(
    check: Callable[..., list[str]], kit: SimpleNamespace, outputs: int
) -> None:
    weight = kit.array(96, 64, seed=1) * blocks((96, 64), outputs, 1, 0.8, 2)
    names = check(kit.module(linear(np.ascontiguousarray(weight.T)), (50, 64)))
    assert names[0].startswith("f32_sparse_gemm_max_")
    assert f"x{outputs}__" in names[0]


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_pruned_convolution_leaves_its_zeros_out(
    check: Callable[..., list[str]], kit: SimpleNamespace, kernel: int
) -> None:
    shape = (32, kernel, kernel, 24)
    weight = (kit.array(*shape, seed=3) * blocks(shape, 16, 1, 0.9, 4)).astype(np.float32)

    def body(emit: Callable[..., relax.Var], x: relax.Var) -> relax.Expr:
        pads = (kernel // 2,) * 4
        return emit(
            relax.op.nn.conv2d(
                x, relax.const(weight), padding=pads, data_layout="NHWC", kernel_layout="OHWI"
            )
        )

    names = check(kit.module(body, (1, 12, 11, 24)))
    assert "_sparse_" in names[0]


@pytest.mark.parametrize("zeros", [0.0, 0.1])
def test_few_zeros_are_multiplied(
    check: Callable[..., list[str]], kit: SimpleNamespace, zeros: float
) -> None:
    weight = kit.array(96, 64, seed=1) * blocks((96, 64), 16, 1, zeros, 2)
    names = check(kit.module(linear(np.ascontiguousarray(weight.T)), (50, 64)))
    assert names[0].startswith("f32_gemm_")


@pytest.mark.parametrize("outputs", [1, 2])
def test_zeros_in_blocks_of_few_outputs_are_left_out(
    check: Callable[..., list[str]], kit: SimpleNamespace, outputs: int
) -> None:
    # Of columns of 8 outputs 34 % are left or more: enough that they cost more than the transposes.
    weight = kit.array(192, 256, seed=1) * blocks((192, 256), outputs, 1, 0.9, 2)
    names = check(kit.module(linear(np.ascontiguousarray(weight.T)), (64, 256)))
    assert names[0].startswith("f32_sparse_gemm_pixels_max_")


def test_zeros_without_blocks_are_multiplied(
    check: Callable[..., list[str]], kit: SimpleNamespace
) -> None:
    # At 30 % zeros one by one there are none in blocks, and lists of single weights cost more.
    weight = kit.array(96, 64, seed=1) * blocks((96, 64), 1, 1, 0.3, 2)
    names = check(kit.module(linear(np.ascontiguousarray(weight.T)), (50, 64)))
    assert names[0].startswith("f32_gemm_")


def test_a_weight_of_zeros_gives_zeros(
    check: Callable[..., list[str]], kit: SimpleNamespace
) -> None:
    check(kit.module(linear(np.zeros((64, 32), np.float32)), (9, 64)))


@pytest.mark.parametrize("largest", [7, 64, 127])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("outputs", [16, 1])
def test_pruned_integers_are_exact(
    kit: SimpleNamespace,
    execute: Callable[..., tuple[list[np.ndarray], list[str]]],
    largest: int,
    kernel: int,
    outputs: int,
) -> None:
    rng = np.random.default_rng(largest)
    shape = (32, kernel, kernel, 64)
    codes = rng.integers(-largest, largest + 1, shape) * blocks(shape, outputs, 4, 0.9, 5)
    data = forms.Affine(
        scale=np.float32(0.5).reshape(()), zero_point=np.int32(77).reshape(()), dtype="uint8"
    )
    stored = forms.Affine(
        scale=np.float32(0.25).reshape(()), zero_point=np.int32(0).reshape(()), dtype="int8"
    )
    pad = kernel // 2

    def body(emit: Callable[..., relax.Var], x: relax.Var) -> relax.Expr:
        return emit(
            relax.op.nn.conv2d(
                emit(forms.dequantize(x, data)),
                emit(forms.dequantize(relax.const(codes.astype(np.int8)), stored)),
                padding=(pad,) * 4,
                data_layout="NHWC",
                kernel_layout="OHWI",
            )
        )

    x = rng.integers(0, 256, (1, 20, 20, 64)).astype(np.uint8)
    (got,), names = execute(kit.module(body, x.shape, dtype="uint8"), x)
    assert "_sparse_" in names[0]
    assert ("_pixels_" in names[0]) == (outputs == 1)
    real = np.pad(x.astype(np.int64) - 77, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    sums = sum(
        real[:, i : i + 20, j : j + 20] @ codes[:, i, j].T
        for i in range(kernel)
        for j in range(kernel)
    )
    assert np.array_equal(got, sums.astype(np.float32) * np.float32(0.125))
