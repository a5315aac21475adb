"""Rows of a constant table in fewer bits that are looked up and made wide, such as embeddings."""

from __future__ import annotations

from math import prod

import numpy as np
from tvm import relax

from tvmopt import ir
from tvmopt.kernels import table_rows
from tvmopt.kernels.table_rows import TableRowsSite
from tvmopt.lowering.graph import Graph, KernelCall, Node, Replacement
from tvmopt.lowering.kernel_cache import KernelCache


def match_table_rows(
    graph: Graph, node: Node, taken: set[int], kernels: KernelCache
) -> Replacement | None:
    """Return the kernel for what is looked up at ``node`` and made float32, or None."""
    table, wide = _table(node.value), graph.only_user(node.var)
    if table is None or str(table.dtype) not in table_rows.STORED or wide is None:
        return None
    if not ir.is_call_to(wide.value, "relax.astype") or ir.dtype(wide.var) != "float32":
        return None
    covered, result = {node.index, wide.index}, wide
    constants = [table_rows.pack(table)]
    if table.dtype == np.int8:
        found = _scaled(graph, node, wide)
        if found is None:
            return None
        scales, scale, result = found
        covered |= {scale.index, result.index}
        constants.append(scales)
    if not taken.isdisjoint(covered):
        return None
    ids = node.value.args[1]
    site = TableRowsSite(
        count=prod(ir.static_shape(ids)),
        rows=table.shape[0],
        width=table.shape[1],
        dtype=str(table.dtype),
        ids=ir.dtype(ids),
        wraps=str(node.value.attrs.mode) == "wrap",
    )
    how = table_rows.config(site, kernels.target)
    cycles = table_rows.cycles(site, kernels.target)
    types = f"{table_rows.TYPES[site.dtype]}_f32"
    kernel = kernels.get(table_rows.table_rows, "table_rows", site, how, cycles, types)
    return Replacement(
        site=f"{site.count} rows of {site.rows}x{site.width}",
        call=KernelCall(kernel=kernel, args=(ids, *constants)),
        covered=frozenset(covered),
        result=result,
        layer=node.var.name,
    )


def _table(value: relax.Expr) -> np.ndarray | None:
    """Return the constant, (rows, width), whose rows ``value`` looks up; None if it does not.

    Both are at least 1.
    """
    if not ir.is_call_to(value, "relax.take") or value.attrs.axis is None:
        return None
    table, ids = ir.constant(value.args[0]), value.args[1]
    if table is None or table.ndim != 2 or not table.size or int(value.attrs.axis) != 0:
        return None
    known = str(value.attrs.mode) in ("wrap", "clip") and ir.dtype(ids) in ("int32", "int64")
    return table if known and isinstance(ids, relax.Var) else None


def _scaled(graph: Graph, node: Node, wide: Node) -> tuple[np.ndarray, Node, Node] | None:
    """Return the scales of the rows, where they are looked up, and their product with ``wide``."""
    result = graph.only_user(wide.var)
    if result is None or not ir.is_call_to(result.value, "relax.multiply"):
        return None
    if not result.value.args[0].same_as(wide.var):
        return None
    scale = graph.maker(result.value.args[1])
    scales = None if scale is None else _table(scale.value)
    if scale is None or scales is None or graph.only_user(scale.var) is not result:
        return None
    same = scale.value.args[1].same_as(node.value.args[1])
    rows = ir.static_shape(node.value.args[0])[0]
    fits = scales.shape == (rows, 1) and scales.dtype == np.float32
    return (scales, scale, result) if same and fits else None
