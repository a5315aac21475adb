"""What is said of the numbers that layers compute in."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import forms
from tvmopt.layer_dtypes import bits_of, layer_dtypes

N, K, GROUP = 6, 64, 32


def _linear(weight: forms.Stored | np.ndarray, data: str) -> tvm.IRModule:
    x = relax.Var("x", relax.TensorType((3, K), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            read: relax.Expr = x
            if data == "static":
                how = forms.Affine(
                    scale=np.float32(0.1), zero_point=np.array(3, "i4"), dtype="uint8"
                )
                read = builder.emit(forms.dequantize(builder.emit(forms.quantize(x, how)), how))
            elif data == "rows":
                read = forms.quantize_rows(x, builder.emit, "rows")
            plain = isinstance(weight, np.ndarray)
            w = relax.const(weight) if plain else weight.build(builder.emit, "w")
            out = builder.emit_output(relax.op.matmul(read, w), "layer")
        builder.emit_func_output(out)
    return builder.get()


def _channels(high: int) -> forms.Dequantized:
    codes = np.zeros((K, N), "i1")
    codes[0, 0], codes[1, 1] = high, -high
    how = forms.Affine(scale=np.ones(N, "f4"), zero_point=np.zeros(N, "i4"), dtype="int8", axis=1)
    return forms.Dequantized(codes=codes, how=how)


def _groups(*, zero: bool) -> forms.Grouped:
    codes = np.zeros((K // GROUP, GROUP, N), "i1")
    codes[0, 0, 0] = 7
    shape = (K // GROUP, 1, N)
    return forms.Grouped(
        codes=codes,
        scale=np.ones(shape, "f4"),
        zero=np.full(shape, 4, "f4") if zero else None,
        axis=0,
    )


SCALES = 4 * N
GROUP_SCALES = 4 * N * K // GROUP


@pytest.mark.parametrize(
    ("weight", "data", "expected", "size"),
    [
        (np.ones((K, N), "f4"), "float", "float32", 4 * K * N),
        (_channels(127), "static", "uint8 x 8-bit by channel", K * N + SCALES),
        (_channels(64), "static", "uint8 x 7-bit by channel", K * N * 7 // 8 + SCALES),
        (_channels(7), "rows", "int8 by row x 4-bit by channel", K * N // 2 + SCALES),
        (_channels(127), "float", "float32 x 8-bit by channel", K * N + SCALES),
        (
            _groups(zero=False),
            "float",
            "float32 x 4-bit in groups of 32",
            K * N // 2 + GROUP_SCALES,
        ),
        (
            _groups(zero=True),
            "float",
            "float32 x 3-bit in groups of 32",
            K * N * 3 // 8 + GROUP_SCALES + N * K // GROUP,
        ),
        (forms.Cast(values=np.ones((K, N), "f2")), "float", "float32 x float16", 2 * K * N),
        (
            forms.Codebook(table=np.arange(16, dtype="f4"), codes=np.ones((K, N), "u1")),
            "float",
            "float32 x 4-bit codebook",
            K * N // 2 + 64,
        ),
    ],
)
def test_layers_are_called_by_what_they_compute_in(
    weight: forms.Stored | np.ndarray, data: str, expected: str, size: int
) -> None:
    found = layer_dtypes(_linear(weight, data))["layer"]
    assert str(found) == expected
    assert found.weight_bytes == size


@pytest.mark.parametrize(
    ("low", "high", "bits"),
    [(-1, 1, 2), (-2, 1, 2), (-2, 2, 3), (-31, 31, 6), (-32, 31, 6), (-32, 32, 7), (-64, 64, 7),
     (-65, 64, 8), (-64, 65, 8), (-128, 127, 8), (0, 0, 2), (0, 5, 4), (-5, 0, 4)],
)  # fmt: skip
def test_bits_follow_from_the_range(low: int, high: int, bits: int) -> None:
    assert bits_of(np.array([low, high]), None) == bits
    assert bits_of(np.array([low, high]), np.array(0)) == bits


@pytest.mark.parametrize(("high", "bits"), [(1, 1), (3, 2), (15, 4), (255, 8)])
def test_integers_about_a_zero_point_have_no_sign(high: int, bits: int) -> None:
    assert bits_of(np.array([0, high]), np.array(1)) == bits


def test_zeros_are_counted_and_make_no_other_numbers() -> None:
    dense, sparse = np.ones((K, N), "f4"), np.ones((K, N), "f4")
    sparse[: K // 4] = 0
    found = [layer_dtypes(_linear(weight, "float"))["layer"] for weight in (dense, sparse)]
    assert [layer.sparsity for layer in found] == [0.0, 0.25]
    assert [layer.weights for layer in found] == [K * N, K * N]
    assert found[0] == found[1]
    codes = layer_dtypes(_linear(_channels(127), "rows"))["layer"]
    assert codes.sparsity == 1 - 2 / (K * N)
