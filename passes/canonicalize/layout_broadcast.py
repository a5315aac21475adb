"""Elementwise operators on stored tensors: any order will do, so they take the cheapest."""

from __future__ import annotations

import math

from tvm import relax

from tvmopt import ir
from tvmopt.passes.canonicalize.layout_store import Held, Store, moves
from tvmopt.passes.canonicalize.views import Shape, View, plain, reshape


def elementwise(store: Store, call: relax.Call, var: relax.Var) -> Held:
    """Run an elementwise operator in the order in which its largest operands are stored.

    Operands stored in another order are moved; constants and what has one element are not.
    """
    shape = ir.static_shape(var)
    held = {
        i: _padded(store.tensor(arg), shape)
        for i, arg in enumerate(call.args)
        if isinstance(arg.ty, relax.TensorType)
    }
    large = {i: h for i, h in held.items() if math.prod(h.view.logical) > 1}
    args = list(call.args)
    for i, h in held.items():
        args[i] = h.expr
    if _agree(list(large.values()), shape):
        # No operand needs to change; not even a reshape to the shape the view speaks of.
        view = next(iter(large.values())).view if large else plain(shape)
    else:
        view = _frame(store, list(large.values()), shape)
        for i, h in large.items():
            args[i] = _fit(store, h, view, call.args[i])
    for i in held.keys() - large.keys():
        args[i] = _flat(store, held[i], len(view.stored))
    expr = store.graph.emit(ir.with_changes(call, args), var.name)
    return Held(expr=expr, view=view, name=var.name)


def _padded(held: Held, shape: Shape) -> Held:
    """Give an operand the rank of the result, as broadcasting does."""
    logical = (1,) * (len(shape) - len(held.view.logical)) + held.view.logical
    view = reshape(held.view, logical)
    assert view is not None, "axes of size 1 cut nothing"
    return Held(expr=held.expr, view=view, name=held.name)


def _agree(large: list[Held], shape: Shape) -> bool:
    """Say whether all operands are as large as the result and stored in one and the same form."""
    return all(
        h.view == large[0].view and h.view.logical == shape and h.shape == large[0].shape
        for h in large
    ) and bool(large or math.prod(shape) == 1)


def _frame(store: Store, large: list[Held], shape: Shape) -> View:
    """Choose how to store the result: as an operand of its size is, so that least has to move."""
    whole = [h for h in large if h.view.logical == shape and not ir.is_constant(h.expr)]
    if not whole:
        return plain(shape)

    def cost(held: Held) -> tuple[int, bool, bool]:
        moved = [
            math.prod(h.view.logical)
            for h in large
            if not ir.is_constant(h.expr)
            and moves(h.view, _broadcast_view(held.view, h.view.logical))
        ]
        # Between equals: what is out of order is so because a convolution near by wants it; and
        # what nobody else reads is likely to be made by the kernel that can do this as well.
        return sum(moved), held.view.is_in_order(), not store.graph.read_once(held.expr)

    return min(whole, key=cost).view


def _broadcast_view(frame: View, logical: Shape) -> View:
    """Return how an operand of ``logical`` shape is stored to broadcast against ``frame``."""
    axes = tuple(
        group if size == whole else ()
        for group, size, whole in zip(frame.axes, logical, frame.logical, strict=True)
    )
    kept = {axis for group in axes for axis in group}
    stored = tuple(size if i in kept else 1 for i, size in enumerate(frame.stored))
    return View(logical=logical, stored=stored, axes=axes)


def _fit(store: Store, held: Held, frame: View, operand: relax.Expr) -> relax.Expr:
    """Return an operand stored so that it broadcasts against ``frame``."""
    expr = store.place(held, _broadcast_view(frame, held.view.logical))
    value = ir.constant(expr)
    if value is None:
        return expr
    # A constant keeps the rank it had where that is enough, so that what was right stays as it is.
    rank = min(value.ndim, len(ir.static_shape(operand)))
    if math.prod(value.shape[: value.ndim - rank]) != 1:
        return expr
    return relax.const(value.reshape(value.shape[value.ndim - rank :]), ir.dtype(operand))


def _flat(store: Store, held: Held, rank: int) -> relax.Expr:
    """Return an operand of one element in a rank that does not raise that of the result."""
    if len(held.shape) <= rank:
        return held.expr
    value = ir.constant(held.expr)
    if value is not None:
        return relax.const(value.reshape(()), ir.dtype(held.expr))
    return store.reshape(held.expr, (1,) * rank, held.name)
