"""Mirror of tvmopt/lowering/table_rows.py and kernels/table_rows.py: bit for bit the definition."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from tvm import relax

op = relax.op
Run = Callable[..., tuple[list[np.ndarray], list[str]]]
Emit = Callable[..., relax.Var]
RNG = np.random.default_rng(12)
ROWS = 50
IDS = np.array([[0, 49, 3, 3], [-1, 7, -50, 21]])


def floats(dtype: type, width: int) -> np.ndarray:
    """Return a table with everything in it that a format has."""
    table = RNG.standard_normal((ROWS, width)).astype(dtype)
    table[3, :1], table[7, :1] = np.inf, np.finfo(np.float16).smallest_subnormal
    table[21, :1] = -0.0
    return table


@pytest.mark.parametrize("width", [1, 5, 8, 20])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["f16", "bf16"])
@pytest.mark.parametrize("ids", ["int32", "int64"])
def test_halves_are_widened_as_they_are_looked_up(
    execute: Run, kit: SimpleNamespace, width: int, dtype: type, ids: str
) -> None:
    table = floats(dtype, width)

    def body(emit: Emit, x: relax.Var) -> relax.Expr:
        found = emit(op.take(relax.const(table), x, axis=0, mode="wrap"))
        return op.astype(found, "float32")

    (y,), kernels = execute(kit.module(body, IDS.shape, dtype=ids), IDS.astype(ids))
    assert len(kernels) == 1
    assert "f16_f32_table_rows" in kernels[0]
    assert y.view(np.uint32).tolist() == table[IDS].astype(np.float32).view(np.uint32).tolist()


def test_integers_are_scaled_row_by_row(execute: Run, kit: SimpleNamespace) -> None:
    codes = RNG.integers(-127, 128, (ROWS, 20)).astype(np.int8)
    scales = RNG.uniform(0.01, 0.02, (ROWS, 1)).astype(np.float32)

    def body(emit: Emit, x: relax.Var) -> relax.Expr:
        found = emit(op.take(relax.const(codes), x, axis=0, mode="wrap"))
        wide = emit(op.astype(found, "float32"))
        return op.multiply(wide, emit(op.take(relax.const(scales), x, axis=0, mode="wrap")))

    (y,), kernels = execute(kit.module(body, IDS.shape, dtype="int64"), IDS)
    assert len(kernels) == 1
    assert "qs8_f32_table_rows" in kernels[0]
    assert np.array_equal(y, codes[IDS].astype(np.float32) * scales[IDS])


def test_indices_beyond_the_table_are_clipped_where_that_is_meant(
    execute: Run, kit: SimpleNamespace
) -> None:
    table = floats(np.float16, 9)

    def body(emit: Emit, x: relax.Var) -> relax.Expr:
        return op.astype(emit(op.take(relax.const(table), x, axis=0, mode="clip")), "float32")

    ids = np.array([-4, 2, 60])
    (y,), kernels = execute(kit.module(body, ids.shape, dtype="int64"), ids)
    assert len(kernels) == 1
    assert np.array_equal(y, table[[0, 2, 49]].astype(np.float32))


def test_rows_of_nothing_stay(execute: Run, kit: SimpleNamespace) -> None:
    def body(emit: Emit, x: relax.Var) -> relax.Expr:
        table = relax.const(floats(np.float16, 0))
        return op.astype(emit(op.take(table, x, axis=0, mode="wrap")), "float32")

    (y,), kernels = execute(kit.module(body, IDS.shape, dtype="int64"), IDS)
    assert not any("table_rows" in name for name in kernels)
    assert y.shape == (*IDS.shape, 0)


def test_narrow_rows_that_others_read_stay(execute: Run, kit: SimpleNamespace) -> None:
    table = floats(np.float16, 9)

    def body(emit: Emit, x: relax.Var) -> tuple[relax.Expr, relax.Expr]:
        found = emit(op.take(relax.const(table), x, axis=0, mode="wrap"))
        return found, emit(op.astype(found, "float32"))

    _, kernels = execute(kit.module(body, IDS.shape, dtype="int64"), IDS)
    assert not any("table_rows" in name for name in kernels)
