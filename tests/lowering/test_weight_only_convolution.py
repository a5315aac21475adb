"""Mirror of tvmopt/lowering/weight_only_convolution.py, and what stored_weight.py does for it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import ml_dtypes
import numpy as np
from tvm import relax

from tvmopt.forms import Affine, Cast, Codebook, Dequantized, Grouped, Stored
from tvmopt.lowering.stored_weight import taps_by_outputs
from tvmopt.report import Report

op = relax.op
Run = Callable[..., tuple[list[np.ndarray], list[str]]]
Emit = Callable[..., relax.Var]
RNG = np.random.default_rng(8)
LAYOUTS = {"data_layout": "NHWC", "kernel_layout": "OHWI"}
OUT, IN = 24, 8


def halves(*shape: int, dtype: type = np.float16) -> Cast:
    return Cast(values=(0.1 * RNG.standard_normal(shape)).astype(dtype))


def by_channel(*shape: int) -> Dequantized:
    scale = RNG.uniform(0.01, 0.02, shape[0]).astype(np.float32)
    how = Affine(scale=scale, zero_point=np.zeros(shape[0], np.int32), dtype="int8", axis=0)
    return Dequantized(codes=RNG.integers(-127, 128, shape).astype(np.int8), how=how)


def by_group(*shape: int) -> Grouped:
    *outer, channels = shape
    codes = RNG.integers(-8, 8, (*outer, channels // 4, 4)).astype(np.int8)
    scale = RNG.uniform(0.01, 0.02, (*outer, channels // 4, 1)).astype(np.float32)
    return Grouped(codes=codes, scale=scale, zero=None, axis=3)


FORMS: dict[str, tuple[Stored, str]] = {
    "3x3 halves": (halves(OUT, 3, 3, IN), "f32_f16w_conv_"),
    "3x3 bfloat16": (halves(OUT, 3, 3, IN, dtype=ml_dtypes.bfloat16), "f32_bf16w_conv_"),
    "3x3 by channel": (by_channel(OUT, 3, 3, IN), "f32_qb8w_conv_"),
    "3x3 by group": (by_group(OUT, 3, 3, IN), "f32_qb4w_conv_"),
    "1x1 halves": (halves(OUT, 1, 1, IN), "f32_f16w_gemm_"),
    "1x1 codebook": (
        Codebook(
            table=RNG.uniform(-0.1, 0.1, 7).astype(np.float32),
            codes=RNG.integers(0, 7, (OUT, 1, 1, IN)).astype(np.uint8),
        ),
        "f32_qt3w_gemm_",
    ),
}


def convolve(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the NHWC convolution of stride 1 that keeps the size, float64."""
    edge = weight.shape[1] // 2
    padded = np.pad(x.astype(np.float64), ((0, 0), (edge, edge), (edge, edge), (0, 0)))
    seen = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[1:3], (1, 2))
    return np.einsum("nhwcij,oijc->nhwo", seen, weight.astype(np.float64))


def test_every_stored_form_has_its_kernel(execute: Run, kit: SimpleNamespace) -> None:
    def body(emit: Emit, x: relax.Var) -> tuple[relax.Expr, ...]:
        found = []
        for stored, _ in FORMS.values():
            edge = stored.shape[1] // 2
            weight = stored.build(emit, "w")
            call = op.nn.conv2d(x, weight, padding=(edge, edge), **LAYOUTS)
            found.append(emit(op.nn.relu(emit(call))))
        return tuple(found)

    x = kit.array(1, 6, 6, IN)
    outputs, kernels = execute(kit.module(body, x.shape), x)
    for (stored, wanted), kernel, y in zip(FORMS.values(), kernels, outputs, strict=True):
        assert kernel.startswith(wanted)
        weight = stored.value()
        exact = np.maximum(convolve(x, weight), 0)
        taps = weight[0].size
        size = convolve(np.abs(x), np.abs(weight))
        assert (np.abs(y - exact) <= taps * 2.0**-24 * size).all(), wanted


def test_other_convolutions_take_what_their_weights_stand_for(
    execute: Run, kit: SimpleNamespace
) -> None:
    depthwise, turned = halves(IN, 3, 3, 1), halves(5, 2, 2, IN)

    def body(emit: Emit, x: relax.Var) -> tuple[relax.Expr, ...]:
        first = op.nn.conv2d(x, depthwise.build(emit, "a"), padding=1, groups=IN, **LAYOUTS)
        second = op.nn.conv2d_transpose(x, turned.build(emit, "b"), **LAYOUTS)
        return emit(first), emit(second)

    x = kit.array(1, 6, 6, IN)
    (y, _), kernels = execute(kit.module(body, x.shape), x)
    assert [name.split("_")[1] for name in kernels] == ["dwconv", "conv"]
    weight = depthwise.value()
    for channel in range(IN):
        exact = convolve(x[..., channel : channel + 1], weight[channel : channel + 1])
        assert np.allclose(y[..., channel : channel + 1], exact, atol=1e-6)


def test_the_report_says_that_winograd_is_given_up(kit: SimpleNamespace) -> None:
    stored, report = halves(32, 3, 3, 32), Report()

    def body(emit: Emit, x: relax.Var) -> relax.Expr:
        return op.nn.conv2d(x, stored.build(emit, "w"), padding=1, **LAYOUTS)

    kit.lowered(kit.module(body, (1, 28, 28, 32)), report)
    (decision,) = report.decisions
    assert decision.reason.endswith(
        ": direct, for Winograd's form would store its weights as float32"
    )


def test_the_matrix_of_a_kernel_holds_the_same_numbers() -> None:
    for stored, _ in FORMS.values():
        matrix = taps_by_outputs(stored)
        assert np.array_equal(matrix.value(), stored.value().reshape(OUT, -1).T)


def test_scales_of_input_channels_have_no_matrix() -> None:
    how = Affine(
        scale=np.ones(IN, np.float32), zero_point=np.zeros(IN, np.int32), dtype="int8", axis=3
    )
    assert taps_by_outputs(Dequantized(codes=np.ones((OUT, 3, 3, IN), np.int8), how=how)) is None
