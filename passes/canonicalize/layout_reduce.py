"""Reductions on stored tensors: they reduce the stored pieces of their axes."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import relax

from tvmopt import ir
from tvmopt.passes.canonicalize.layout_store import Held, Store, axes_of, without
from tvmopt.passes.canonicalize.views import View


def reduce(store: Store, call: relax.Call, var: relax.Var) -> Held:
    """Reduce over the stored pieces of the axes: mean, sum, max and their like."""
    held = store.tensor(call.args[0])
    view, rank = held.view, len(held.view.logical)
    reduced = range(rank) if call.attrs.axis is None else axes_of(call.attrs.axis, rank)
    pieces = sorted(a for i in reduced for a in view.axes[i])
    if len(reduced) == rank:
        pieces = list(range(len(view.stored)))
    if not pieces:
        return _reduce_ones(store, call, var, list(reduced))
    expr = store.reshape(held.expr, view.stored, held.name)
    kept = view.stored
    place = {a: a for a in range(len(kept))}
    if call.attrs.keepdims:
        kept = tuple(1 if a in pieces else size for a, size in enumerate(kept))
    else:
        left = [a for a in range(len(kept)) if a not in pieces]
        kept, place = tuple(kept[a] for a in left), {a: i for i, a in enumerate(left)}
    axes = [
        () if i in reduced else tuple(place[a] for a in view.axes[i])
        for i in range(rank)
        if call.attrs.keepdims or i not in reduced
    ]
    new = ir.with_changes(call, [expr], axis=pieces)
    result = View(logical=ir.static_shape(var), stored=kept, axes=tuple(axes))
    return Held(expr=store.graph.emit(new, var.name), view=result, name=var.name)


def _reduce_ones(store: Store, call: relax.Call, var: relax.Var, reduced: Sequence[int]) -> Held:
    """Reduce over axes of size 1, which a view leaves out."""
    expr, order = store.whole(store.tensor(call.args[0]))
    new = ir.with_changes(call, [expr], axis=sorted(order.index(a) for a in reduced))
    return store.run(var, new, order if call.attrs.keepdims else without(order, reduced))


def arg_reduce(store: Store, call: relax.Call, var: relax.Var) -> Held | None:
    """Find the index of the largest or smallest element along one stored axis."""
    if call.attrs.axis is None:
        return None  # an index into the flattened tensor depends on the order
    expr, order = store.whole(store.tensor(call.args[0]))
    axis = int(call.attrs.axis) % len(order)
    new = ir.with_changes(call, [expr], axis=order.index(axis))
    return store.run(var, new, order if call.attrs.keepdims else without(order, [axis]))
