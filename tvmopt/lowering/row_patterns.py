"""Which bindings join tensors along their rows, or cut rows."""

from __future__ import annotations

from tvm import relax

from tvmopt import ir
from tvmopt.kernels import views
from tvmopt.lowering.graph import Graph, Node
from tvmopt.lowering.views import slice_starts

TYPES = {"float32": "f32", "int32": "s32", "uint8": "u8", "int8": "s8"}  # as kernels' names begin


def parts_of(graph: Graph, node: Node) -> list[relax.Expr] | None:
    """Return what a binding concatenates along rows that are several; None for anything else.

    None of the rows is empty.
    """
    call = node.value
    if not ir.is_call_to(call, "relax.concat") or ir.dtype(node.var) not in TYPES:
        return None
    parts, shape = graph.definition(call.args[0]), ir.static_shape(node.var)
    last = int(call.attrs.axis or 0) % len(shape) == len(shape) - 1
    if not last or not isinstance(parts, relax.Tuple) or views.run_before(shape, len(shape) - 1):
        return None
    return list(parts.fields) if all(ir.static_shape(part)[-1] for part in parts.fields) else None


def is_split(call: relax.Expr) -> bool:
    """Say whether a value is a split of rows."""
    if not ir.is_call_to(call, "relax.split"):
        return False
    rank = len(ir.static_shape(call.args[0]))
    return int(call.attrs.axis) % rank == rank - 1


def cut_of(graph: Graph, node: Node) -> tuple[relax.Expr, int] | None:
    """Return the tensor of whose rows a binding is a part, and the part's first element, or None.

    The tensor has several rows.
    """
    value = node.value
    if isinstance(value, relax.TupleGetItem):
        split = graph.definition(value.tuple_value)
        if not is_split(split) or not isinstance(split.ty, relax.TupleType):
            return None
        x, sizes = split.args[0], [int(field.shape[-1]) for field in split.ty.fields]
        first = sum(sizes[: value.index])
    elif ir.is_call_to(value, "relax.strided_slice"):
        x, starts = value.args[0], slice_starts(value)
        if starts is None or ir.static_shape(x)[:-1] != ir.static_shape(node.var)[:-1]:
            return None
        first = starts[-1]
    else:
        return None
    shape = ir.static_shape(x)
    several = not views.run_before(shape, len(shape) - 1)
    return (x, first) if several and ir.dtype(node.var) in TYPES else None
