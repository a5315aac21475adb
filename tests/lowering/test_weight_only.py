"""Mirror of tvmopt/lowering/weight_only.py."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from tvm import relax

from tvmopt import forms, ir
from tvmopt.forms import Affine, Cast, Codebook, Dequantized, Grouped, Stored
from tvmopt.lowering.stored_weight import code_of
from tvmopt.report import Report

op = relax.op
Run = Callable[..., tuple[list[np.ndarray], list[str]]]
Emit = Callable[..., relax.Var]

K, N = 96, 40
RNG = np.random.default_rng(5)


def integers(low: int, high: int, *shape: int) -> np.ndarray:
    return RNG.integers(low, high + 1, shape).astype(np.int8)


def floats(*shape: int) -> np.ndarray:
    return RNG.uniform(0.5, 2, shape).astype(np.float32)


def by_channel(low: int, high: int) -> Dequantized:
    how = Affine(scale=floats(N), zero_point=np.zeros(N, np.int32), dtype="int8", axis=1)
    return Dequantized(codes=integers(low, high, K, N), how=how)


def by_group(size: int, low: int, high: int, zero: bool = False) -> Grouped:
    groups = K // size
    zeros = integers(low, high, groups, 1, N).astype(np.float32) if zero else None
    codes = integers(low, high, groups, size, N)
    return Grouped(codes=codes, scale=floats(groups, 1, N), zero=zeros, axis=0)


HALVES = {
    name: Cast(values=RNG.standard_normal((K, N)).astype(dtype))
    for name, dtype in [("f16w", np.float16), ("bf16w", ml_dtypes.bfloat16)]
}
BOOK = Codebook(table=floats(11), codes=RNG.integers(0, 11, (K, N)).astype(np.uint8))
FORMS: list[tuple[str, Stored]] = [
    ("qb8w", by_channel(-127, 127)),
    ("qb4w", by_channel(-7, 7)),
    ("qb4w", by_group(32, -8, 7)),
    ("qb4w", by_group(16, 0, 15, zero=True)),
    ("qb3w", by_group(32, -4, 3)),
    ("qb2w", by_group(8, -2, 1, zero=True)),
    ("qb8w", by_group(48 * 2, -128, 127)),
    ("qt4w", BOOK),
    *HALVES.items(),
]


@pytest.mark.parametrize("rows", [1, 7])
def test_every_stored_form_has_its_kernel(execute: Run, kit: SimpleNamespace, rows: int) -> None:
    bias = kit.array(N, seed=3)

    def body(emit: Emit, x: relax.Var) -> tuple[relax.Expr, ...]:
        products = [emit(op.matmul(x, stored.build(emit, "w"))) for _, stored in FORMS]
        sums = [emit(op.add(product, relax.const(bias))) for product in products]
        return tuple(emit(op.nn.relu(each)) for each in sums)

    x = kit.array(1, rows, K, seed=rows)
    found, kernels = execute(kit.module(body, x.shape), x)
    kind = "gemv" if rows == 1 else "gemm"
    for (name, stored), kernel, y in zip(FORMS, kernels, found, strict=True):
        assert kernel.startswith(f"f32_{name}_{kind}_add_max_")
        weight = stored.value().astype(np.float64)
        exact = np.maximum(x @ weight + bias, 0)
        # Codes are unsigned in a kernel: the range of a code bounds what is added and subtracted
        # again. Of k products, as many sums of x, and six roundings more.
        size = np.abs(x) @ (2 * np.abs(weight) + np.ptp(weight, axis=0)) + np.abs(bias)
        assert (np.abs(y - exact) <= (2 * K + 6) * 2.0**-24 * size).all(), name


def test_the_artefact_holds_the_codes_alone(kit: SimpleNamespace) -> None:
    def size(stored: Stored) -> int:
        mod = kit.module(lambda emit, x: op.matmul(x, stored.build(emit, "w")), (1, K))
        lowered, _ = kit.lowered(mod)
        calls = [call for call in ir.calls(lowered) if ir.is_call_to(call, "relax.call_tir")]
        arrays = [ir.constant(arg) for call in calls for arg in call.args[1].fields]
        return sum(array.nbytes for array in arrays if array is not None)

    # 40 columns are two panels of 24, for tiles of whole registers overlap.
    columns = 48
    assert size(HALVES["f16w"]) == K * 40 * 2
    assert size(by_group(32, -8, 7)) == K * columns // 2 + K // 32 * columns * 4


def test_groups_that_no_block_holds_are_stored_as_floats(
    execute: Run, kit: SimpleNamespace
) -> None:
    stored, report = by_group(24, -8, 7), Report()
    mod = kit.module(lambda emit, x: op.matmul(x, stored.build(emit, "w")), (3, K))
    kit.lowered(mod, report)
    (decision,) = report.decisions
    assert decision.reason.endswith(
        ": no kernel reads such codes; the weights are stored as float32"
    )
    x = kit.array(3, K)
    (y,), _ = execute(mod, x)
    exact = x.astype(np.float64) @ stored.value()
    assert (np.abs(y - exact) <= K * 2.0**-24 * (np.abs(x) @ np.abs(stored.value()))).all()


def test_zero_points_that_are_no_integers_have_no_code(kit: SimpleNamespace) -> None:
    grouped = by_group(32, 0, 15, zero=True)
    odd = Grouped(codes=grouped.codes, scale=grouped.scale, zero=grouped.zero + 0.5, axis=0)
    assert code_of(odd, kit.AVX2) is None


def test_codes_are_as_narrow_as_their_values(kit: SimpleNamespace) -> None:
    for low, high, bits in [(-8, 7, 4), (-7, 7, 4), (-1, 1, 2), (0, 15, 4), (-16, 15, 5)]:
        grouped = by_group(32, low, high)
        grouped.codes[0, :2, 0] = low, high
        coded = code_of(grouped, kit.AVX2)
        assert (coded.code.bits, coded.code.zero) == (bits, -low)


def test_a_weight_that_two_products_read(execute: Run, kit: SimpleNamespace) -> None:
    stored = by_group(32, -8, 7)

    def body(emit: Emit, x: relax.Var) -> tuple[relax.Expr, relax.Expr]:
        weight = stored.build(emit, "w")
        return emit(op.matmul(x, weight)), emit(op.matmul(emit(op.nn.relu(x)), weight))

    x = kit.array(2, K)
    (first, second), kernels = execute(kit.module(body, (2, K)), x)
    assert sum("qb4w" in kernel for kernel in kernels) == 2
    assert np.allclose(first, x @ stored.value(), atol=1e-3)
    assert np.allclose(second, np.maximum(x, 0) @ stored.value(), atol=1e-3)


def test_a_form_is_what_the_passes_write(kit: SimpleNamespace) -> None:
    # The builders are those of tvmopt/forms; a plain constant is no stored form.
    mod = kit.module(lambda _, x: op.matmul(x, kit.const(K, N)), (1, K))
    assert (
        forms.match_stored(mod["main"].body.blocks[0].bindings[0].value.args[1], lambda e: e)
        is None
    )
    _, kernels = kit.lowered(mod)
    assert kernels[0].startswith("f32_gemm_")
