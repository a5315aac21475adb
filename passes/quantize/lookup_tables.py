"""Store tables of which rows are looked up, such as embeddings, in fewer bits.

Before::

    y: (..., d) = take(table: (rows, d) float32, ids, axis=0)

After, one of::

    y = astype(take(values: float16 | bfloat16, ids), "float32")
    y = multiply(astype(take(codes: int8, ids), "float32"), take(scales: (rows, 1), ids))

Rows are looked up before they are made wide, so that only what is needed is read. Each row has its
own scale: a row is one word, and words differ more than features do. Integers have 8 bits: fewer
would have to be packed, and a lookup reads too little to gain from it.

Source: H. Guan et al., "Post-training 4-bit quantization on embedding tables", arXiv:1911.02079,
section 2, for scales by row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from tvm import relax

from tvmopt import ir
from tvmopt.passes.canonicalize.rebuild import Rebuild
from tvmopt.passes.quantize.grid import symmetric
from tvmopt.passes.quantize.store_weight import as_half, to_nearest
from tvmopt.passes.quantize.weight_grid import WeightChoice, weight_grid


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StoredTable:
    """A table in fewer bits.

    Attributes:
        codes: (rows, d): float16, bfloat16, or int8.
        scales: (rows, 1) float32 beside integers; else None.
    """

    codes: np.ndarray
    scales: np.ndarray | None

    def look_up(self, graph: Rebuild, name: str, call: relax.Call) -> relax.Expr:
        """Return the rows that ``call`` looked up in floats, float32."""
        rows = ir.with_changes(call, [relax.const(self.codes), call.args[1]])
        wide = relax.op.astype(graph.emit(rows, f"{name}_codes"), "float32")
        if self.scales is None:
            return wide
        scales = ir.with_changes(call, [relax.const(self.scales), call.args[1]])
        return relax.op.multiply(
            graph.emit(wide, f"{name}_wide"), graph.emit(scales, f"{name}_scales")
        )


def find_tables(values: Mapping[relax.Var, relax.Expr]) -> dict[relax.Var, np.ndarray]:
    """Return the float32 tables, (rows, d), by the variables of what is looked up in them.

    Args:
        values: Of a function's variables.
    """
    found = {var: _table(value) for var, value in values.items()}
    return {var: table for var, table in found.items() if table is not None}


def _table(value: relax.Expr) -> np.ndarray | None:
    if not ir.is_call_to(value, "relax.take") or not isinstance(value.args[1], relax.Var):
        return None
    table, axis = ir.float_constant(value.args[0]), value.attrs.axis
    if table is None or table.ndim != 2 or axis is None or int(axis) != 0:
        return None
    return table if table.dtype == np.float32 else None


def store_table(table: np.ndarray, storage: str) -> StoredTable | str:
    """Return a table in fewer bits, or why it stays.

    Args:
        table: (rows, d) float32, finite.
        storage: ``"float16"``, ``"bfloat16"``, or ``"int"`` for 8 bits.
    """
    if storage == "int":
        grid = weight_grid(table, WeightChoice(levels=symmetric(8)), axis=0)
        return StoredTable(codes=to_nearest("", table, grid), scales=grid.scale[:, None])
    if storage not in ("float16", "bfloat16"):
        return "a table of rows is stored as int, float16 or bfloat16 only"
    form = as_half(table, storage)
    return form if isinstance(form, str) else StoredTable(codes=form.values, scales=None)
