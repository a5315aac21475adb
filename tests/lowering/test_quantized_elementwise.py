"""Mirror of tvmopt/lowering/quantized_elementwise.py."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.special
from tvm import relax

from tvmopt import forms
from tvmopt.forms import Affine
from tvmopt.report import Report

op = relax.op
Emit = Callable[..., relax.Var]
Execute = Callable[..., tuple[list[np.ndarray], list[str]]]
SHAPE, GATE = (1, 5, 6, 24), (1, 1, 1, 24)
RNG = np.random.default_rng(7)
X = RNG.integers(0, 256, SHAPE).astype(np.uint8)
Y = RNG.integers(0, 256, SHAPE).astype(np.uint8)
G = RNG.integers(0, 256, GATE).astype(np.uint8)


def affine(scale: float, zero: int, dtype: str = "uint8") -> Affine:
    return Affine(scale=np.float32(scale), zero_point=np.int32(zero), dtype=dtype)


A, B, OUT = affine(0.0231, 119), affine(0.0193, 77), affine(0.0412, 8)


def real(q: np.ndarray, how: Affine) -> np.ndarray:
    return (q.astype(np.float32) - np.float32(how.zero_point)) * how.scale


def stored(value: np.ndarray, how: Affine = OUT, low: int = 0) -> np.ndarray:
    """Return what a value that counts in steps of ``how`` is rounded to."""
    assert value.dtype == np.float32
    return np.clip(np.rint(value) + how.zero_point, low, how.high).astype(how.dtype)


def step(how: Affine) -> np.float32:
    """Return a step of ``how`` in steps of the output."""
    return np.float32(np.float64(how.scale) / np.float64(OUT.scale))


def test_a_sum_counts_in_steps_of_the_output(kit: SimpleNamespace, execute: Execute) -> None:
    def body(emit: Emit, x: relax.Var, y: relax.Var) -> relax.Expr:
        total = emit(op.add(emit(forms.dequantize(x, A)), emit(forms.dequantize(y, B))))
        return forms.quantize(emit(op.nn.relu(total)), OUT)

    (got,), names = execute(kit.module(body, SHAPE, SHAPE, dtype="uint8"), X, Y)
    (name,) = names
    assert name.startswith("qu8_elementwise_scale_")
    left = (X.astype(np.float32) - np.float32(119)) * step(A)
    right = (Y.astype(np.float32) - np.float32(77)) * step(B)
    assert np.array_equal(got, stored(left + right, low=8))


def test_a_gate_for_each_channel_is_read_as_integers(
    kit: SimpleNamespace, execute: Execute
) -> None:
    def body(emit: Emit, x: relax.Var, g: relax.Var) -> relax.Expr:
        product = op.multiply(emit(forms.dequantize(x, A)), emit(forms.dequantize(g, B)))
        return forms.quantize(emit(product), OUT)

    (got,), names = execute(kit.module(body, SHAPE, GATE, dtype="uint8"), X, G)
    assert len(names) == 1
    value = real(X, A) * real(G, B)
    assert np.array_equal(got, stored(value * np.float32(1 / np.float64(OUT.scale))))


def test_signed_integers_are_read_and_stored(kit: SimpleNamespace, execute: Execute) -> None:
    how, out = affine(0.02, -11, "int8"), affine(0.04, 5, "int8")

    def body(emit: Emit, x: relax.Var, y: relax.Var) -> relax.Expr:
        total = emit(op.add(emit(forms.dequantize(x, how)), emit(forms.dequantize(y, how))))
        return forms.quantize(total, out)

    x, y = X.view(np.int8), Y.view(np.int8)
    (got,), names = execute(kit.module(body, SHAPE, SHAPE, dtype="int8"), x, y)
    assert names[0].startswith("qs8_elementwise_")
    ratio = np.float32(np.float64(how.scale) / np.float64(out.scale))
    left, right = ((q.astype(np.float32) + np.float32(11)) * ratio for q in (x, y))
    assert np.array_equal(got, np.clip(np.rint(left + right) + 5, -128, 127).astype(np.int8))


CHAINS = {
    "rescale": (lambda _, x: x, lambda x: x),
    "sigmoid": (lambda _, x: op.sigmoid(x), scipy.special.expit),
    "hard swish": (
        lambda emit, x: op.divide(
            emit(op.multiply(x, emit(op.clip(emit(op.add(x, relax.const(3.0))), 0, 6)))),
            relax.const(6.0),
        ),
        lambda x: x * np.clip(x + 3, 0, 6) / 6,
    ),
    "silu": (lambda _, x: op.nn.silu(x), lambda x: x * scipy.special.expit(x)),
}


@pytest.mark.parametrize("chain", CHAINS)
def test_a_function_of_one_tensor_is_a_table(
    kit: SimpleNamespace, execute: Execute, chain: str
) -> None:
    build, function = CHAINS[chain]

    def body(emit: Emit, x: relax.Var) -> relax.Expr:
        value = build(emit, emit(forms.dequantize(x, A)))
        return forms.quantize(value if isinstance(value, relax.Var) else emit(value), OUT)

    (got,), names = execute(kit.module(body, SHAPE, dtype="uint8"), X)
    assert names == [f"x8_lut__{kit.ISA}"]
    # In float64 no value of these chains lies within 1e-5 of a half: no rounding decides.
    exact = function(real(np.arange(256), A).astype(np.float64)) / np.float64(OUT.scale)
    assert np.abs(exact - np.floor(exact) - 0.5).min() > 1e-5
    assert np.array_equal(got, stored(exact.astype(np.float32))[X])


def test_a_tensor_with_two_readers_is_dequantized_by_each(
    kit: SimpleNamespace, execute: Execute
) -> None:
    # Squeeze and excite: nothing is stored as float but the means.
    def body(emit: Emit, x: relax.Var) -> relax.Expr:
        value = emit(forms.dequantize(x, A))
        mean = emit(forms.quantize(emit(op.mean(value, [1, 2], keepdims=True)), B))
        gate = emit(op.sigmoid(emit(forms.dequantize(mean, B))))
        gated = emit(forms.quantize(gate, OUT))
        return forms.quantize(emit(op.multiply(value, emit(forms.dequantize(gated, OUT)))), A)

    (got,), names = execute(kit.module(body, SHAPE, dtype="uint8"), X)
    kinds = [name.split("__")[0].split("_scale")[0] for name in names]
    assert kinds == ["qu8_gavgpool", "x8_lut", "qu8_elementwise"]
    factor = np.float32(np.float64(A.scale) / np.float64(B.scale) / 30)
    sums = (X.astype(np.int64) - 119).sum((1, 2), keepdims=True).astype(np.float32)
    mean = stored(sums * factor, B)
    gate = stored(scipy.special.expit(real(mean, B)) / OUT.scale)
    value = real(X, A) * real(gate, OUT) * np.float32(1 / np.float64(A.scale))
    assert np.array_equal(got, stored(value, A))


def test_a_sum_that_a_product_makes_later_is_left_to_it(kit: SimpleNamespace) -> None:
    weight = relax.const(np.ones((24, 1, 1, 24), np.int8))
    how = affine(0.01, 0, "int8")

    def body(emit: Emit, x: relax.Var, y: relax.Var) -> relax.Expr:
        residual = emit(forms.dequantize(y, B))
        w = emit(forms.dequantize(weight, how))
        layouts = {"data_layout": "NHWC", "kernel_layout": "OHWI"}
        value = emit(op.nn.conv2d(emit(forms.dequantize(x, A)), w, **layouts))
        return forms.quantize(emit(op.add(residual, value)), OUT)

    _, names = kit.lowered(kit.module(body, SHAPE, SHAPE, dtype="uint8"))
    assert len(names) == 1
    assert "gemm" in names[0]


def test_kernels_behind_each_other_are_not_fused(kit: SimpleNamespace, execute: Execute) -> None:
    # TVM took the first for an elementwise operator and tried to fuse it with the second.
    def body(emit: Emit, x: relax.Var, g: relax.Var) -> relax.Expr:
        value = emit(forms.dequantize(x, A))
        gated = emit(op.multiply(value, emit(forms.dequantize(g, B))))
        stored_ = emit(forms.quantize(gated, OUT))
        return forms.quantize(emit(op.add(emit(forms.dequantize(stored_, OUT)), value)), A)

    (got,), names = execute(kit.module(body, SHAPE, GATE, dtype="uint8"), X, G)
    assert len(names) == 2
    gated = stored(real(X, A) * real(G, B) * np.float32(1 / np.float64(OUT.scale)))
    ratio = np.float32(np.float64(OUT.scale) / np.float64(A.scale))
    total = (gated.astype(np.float32) - np.float32(8)) * ratio
    total = total + (X.astype(np.float32) - np.float32(119))
    assert np.array_equal(got, stored(total, A))


def test_what_stays_float_is_left_to_the_rest(kit: SimpleNamespace) -> None:
    report = Report()
    mod = kit.module(lambda emit, x: op.exp(emit(forms.dequantize(x, A))), SHAPE, dtype="uint8")
    _, names = kit.lowered(mod, report)
    assert not report.decisions
    assert len(names) == 1


def test_the_report_names_the_operators(kit: SimpleNamespace) -> None:
    report = Report()

    def body(emit: Emit, x: relax.Var) -> relax.Expr:
        return forms.quantize(emit(op.tanh(emit(op.nn.relu(emit(forms.dequantize(x, A)))))), OUT)

    kit.lowered(kit.module(body, SHAPE, dtype="uint8"), report)
    (decision,) = report.decisions
    assert decision.site == "relu+tanh (1, 5, 6, 24)"
