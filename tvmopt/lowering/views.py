"""Concatenations and slices that are runs of memory: codegen plans them away.

One along an axis before which all axes have length 1 is such a run; for those along the last axis
see row_views.py. Others stay with the generic schedule, which fuses them with their neighbours; so
do those that start off a cache line, where no kernel may read or write.
"""

from __future__ import annotations

from math import prod

import numpy as np
from tvm import relax, tirx

from tvmopt import ir
from tvmopt.kernels import views
from tvmopt.kernels.rows import LINE_BYTES
from tvmopt.lowering.graph import Graph, KernelCall, Node, Replacement
from tvmopt.lowering.kernel_cache import KernelCache


def match_view(
    graph: Graph, node: Node, _taken: set[int], _kernels: KernelCache
) -> Replacement | None:
    """Return the view for a concatenation, a slice or a field of a split, or None."""
    value = node.value
    if isinstance(value, relax.TupleGetItem):
        return _field(graph, node, value)
    if ir.is_call_to(value, "relax.concat"):
        return _concatenation(graph, node, value)
    if ir.is_call_to(value, "relax.strided_slice"):
        return _slice(node, value)
    return None


def _concatenation(graph: Graph, node: Node, call: relax.Call) -> Replacement | None:
    parts = graph.definition(call.args[0])
    if not isinstance(parts, relax.Tuple):
        return None
    shapes, out = [ir.static_shape(part) for part in parts.fields], ir.static_shape(node.var)
    dtype = ir.dtype(node.var)
    if not views.run_before(out, int(call.attrs.axis or 0) % len(out)):
        return None
    starts = np.cumsum([0, *(prod(shape) for shape in shapes[:-1])])
    made = any(graph.maker(part) is not None for part in parts.fields)
    if not made or any(not _on_a_line(int(start), dtype) for start in starts):
        return None
    kernel = views.join(shapes, out, dtype, "join")
    return _replacement(node, f"join {len(shapes)} -> {out}", kernel, *parts.fields)


def _slice(node: Node, call: relax.Call) -> Replacement | None:
    starts = slice_starts(call)
    return None if starts is None else _part(node, call.args[0], starts)


def slice_starts(call: relax.Call) -> list[int] | None:
    """Return where a slice begins along each axis; None if it leaves elements out between."""
    x, axes, begins, _, *steps = call.args
    shape = ir.static_shape(x)
    if steps and any(int(step) != 1 for step in steps[0].fields):
        return None
    first = [0] * len(shape)
    for axis, begin in zip(axes.fields, begins.fields, strict=True):
        at, size = int(begin), shape[int(axis)]
        first[int(axis)] = min(max(at + size if at < 0 else at, 0), size)
    return first


def _field(graph: Graph, node: Node, field: relax.TupleGetItem) -> Replacement | None:
    split = graph.definition(field.tuple_value)
    if not ir.is_call_to(split, "relax.split") or not isinstance(split.ty, relax.TupleType):
        return None
    x = split.args[0]
    axis = int(split.attrs.axis) % len(ir.static_shape(x))
    sizes = [int(part.shape[axis]) for part in split.ty.fields]
    first = [0] * len(ir.static_shape(x))
    first[axis] = sum(sizes[: field.index])
    return _part(node, x, first)


def _part(node: Node, x: relax.Expr, begins: list[int]) -> Replacement | None:
    shape, out, dtype = ir.static_shape(x), ir.static_shape(node.var), ir.dtype(node.var)
    offset = views.run_offset(shape, begins, out)
    if offset is None or not _on_a_line(offset, dtype) or ir.is_constant(x):
        return None
    kernel = views.part(shape, offset, out, dtype, "part")
    return _replacement(node, f"part {shape} -> {out}", kernel, x)


def _on_a_line(offset: int, dtype: str) -> bool:
    size = 1 if dtype == "bool" else np.dtype(dtype).itemsize
    return offset * size % LINE_BYTES == 0


def _replacement(node: Node, site: str, kernel: tirx.PrimFunc, *args: relax.Expr) -> Replacement:
    return Replacement(
        site=site,
        call=KernelCall(kernel=kernel, args=args),
        covered=frozenset({node.index}),
        result=node,
        layer=node.var.name,
    )
