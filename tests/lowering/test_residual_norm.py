"""Mirror of tvmopt/lowering/residual_norm.py."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import tvm
from tvm import relax

op = relax.op
CHANNELS = 48


def norm(kit: SimpleNamespace, x: relax.Expr) -> relax.Call:
    gamma, beta = kit.const(CHANNELS, seed=3), kit.const(CHANNELS, seed=4)
    return op.nn.layer_norm(x, gamma, beta, axes=[-1], epsilon=1e-5)


def expected(kit: SimpleNamespace, total: np.ndarray) -> np.ndarray:
    """Return the layer norm of ``total`` in float64."""
    gamma, beta = kit.array(CHANNELS, seed=3), kit.array(CHANNELS, seed=4)
    distance = total - total.mean(-1, keepdims=True)
    variance = (distance**2).mean(-1, keepdims=True)
    return distance / np.sqrt(variance + 1e-5) * gamma + beta


def close(got: np.ndarray, exact: np.ndarray) -> None:
    # Sums of 48 values, twice, a root and a few products: some 110 roundings at most, of values
    # whose magnitude (a normalized value times gamma, and beta) stays below 32.
    assert np.abs(got - exact).max() <= 110 * 2.0**-24 * 32


def test_a_sum_is_normalized_as_it_is_made(kit: SimpleNamespace, execute: Callable) -> None:
    x, y = kit.array(2, 5, CHANNELS), kit.array(2, 5, CHANNELS, seed=1)
    mod = kit.module(lambda emit, x, y: norm(kit, emit(op.add(x, y))), x.shape, y.shape)
    (got,), names = execute(mod, x, y)
    assert names == [f"f32_add_layer_norm__{kit.ISA}"]
    close(got, expected(kit, x.astype(np.float64) + y))


def test_a_sum_that_is_read_again_is_a_second_result(
    kit: SimpleNamespace, execute: Callable
) -> None:
    def body(emit: Callable, x: relax.Expr, y: relax.Expr) -> relax.Expr:
        total = emit(op.add(x, y))
        normal = emit(norm(kit, total))
        return op.multiply(normal, emit(op.exp(total)))

    x, y = kit.array(3, CHANNELS), kit.array(3, CHANNELS, seed=1)
    (got,), names = execute(kit.module(body, x.shape, y.shape), x, y)
    assert names[0] == f"f32_add_layer_norm__{kit.ISA}"
    assert len(names) == 2
    total = x.astype(np.float64) + y
    # The product's error grows with exp(total), which is also off by 2 units and total's rounding.
    scale = np.exp(np.abs(total).max()) * 2
    assert np.abs(got - expected(kit, total) * np.exp(total)).max() <= 120 * 2.0**-24 * 32 * scale


def test_constants_of_rows_are_added_on_the_way(kit: SimpleNamespace, execute: Callable) -> None:
    def body(emit: Callable, x: relax.Expr) -> relax.Expr:
        rows = emit(op.add(x, kit.const(5, CHANNELS, seed=7)))
        return norm(kit, emit(op.add(kit.const(CHANNELS, seed=8), rows)))

    x = kit.array(2, 5, CHANNELS)
    (got,), names = execute(kit.module(body, x.shape), x)
    assert names == [f"f32_add_add_layer_norm__{kit.ISA}"]
    total = x.astype(np.float64) + kit.array(5, CHANNELS, seed=7) + kit.array(CHANNELS, seed=8)
    close(got, expected(kit, total))


def test_a_product_keeps_its_own_residual(kit: SimpleNamespace) -> None:
    def body(emit: Callable, x: relax.Expr, y: relax.Expr) -> relax.Expr:
        product = emit(op.matmul(x, kit.const(64, CHANNELS)))
        return norm(kit, emit(op.add(product, y)))

    _, names = kit.lowered(kit.module(body, (4, 64), (4, CHANNELS)))
    assert names[0].startswith("f32_gemm_add")
    assert names[1] == "f32_layer_norm"


@pytest.mark.parametrize("operator", [op.multiply, op.maximum])
def test_what_is_no_sum_is_left_alone(kit: SimpleNamespace, operator: Callable) -> None:
    mod = kit.module(
        lambda emit, x, y: norm(kit, emit(operator(x, y))), (4, CHANNELS), (4, CHANNELS)
    )
    _, names = kit.lowered(mod)
    assert not any("add_layer_norm" in name for name in names)


def test_both_results_are_computed_row_by_row_in_vectors(kit: SimpleNamespace) -> None:
    def body(emit: Callable, x: relax.Expr, y: relax.Expr) -> relax.Expr:
        total = emit(op.add(x, y))
        return emit(norm(kit, total)), total

    lowered, _ = kit.lowered(kit.module(body, (64, CHANNELS), (64, CHANNELS)))
    (func,) = [f for _, f in lowered.functions_items() if isinstance(f, tvm.tirx.PrimFunc)]
    named = func.with_attr("global_symbol", "main")
    assembly = tvm.tirx.build(named, target=kit.AVX2.to_tvm()).inspect_source("asm")
    assert re.search(r"vfn?m(add|sub)\w*ps\b.*%ymm", assembly)
    # No buffer but a row's few sums, and those in registers or on the stack.
    assert "AllocWorkspace" not in assembly
