"""Matmuls by a constant matrix on stored tensors: the constant is permuted, not the data."""

from __future__ import annotations

import math

import numpy as np
from tvm import relax

from tvmopt import ir
from tvmopt.passes.canonicalize.layout_store import Held, Store
from tvmopt.passes.canonicalize.views import Shape, View


def matmul(store: Store, call: relax.Call, var: relax.Var) -> Held | None:
    """Multiply by a constant (k, n) matrix whatever the order of rows and of pieces of k.

    After ``flatten`` of an (n, c, h, w) tensor stored as (n, h, w, c), k runs over (c, h, w) but is
    stored as (h, w, c): the rows of the constant are brought into that order instead.
    """
    held, weight = store.tensor(call.args[0]), ir.constant(call.args[1])
    if weight is None or weight.ndim != 2 or len(held.view.logical) < 2:
        return None
    view = held.view
    if not _is_last(view):
        view = _with_last_axis_last(view)
        held = Held(expr=store.place(held, view), view=view, name=held.name)
    inner = sorted(view.axes[-1])
    # Axes of size 1 among or after those of k are dropped; the rows keep their shape.
    rows = view.stored[: inner[0]] if inner else _rows(view)
    data = store.reshape(held.expr, (*(rows or (1,)), weight.shape[0]), held.name)
    if list(view.axes[-1]) != inner:
        weight = _permuted_rows(weight, view)
    new = ir.with_changes(call, [data, relax.const(weight)])
    stored = (*(rows or (1,)), weight.shape[1])
    last = (len(stored) - 1,) if weight.shape[1] != 1 else ()
    result = View(
        logical=(*view.logical[:-1], weight.shape[1]), stored=stored, axes=(*view.axes[:-1], last)
    )
    return Held(expr=store.graph.emit(new, var.name), view=result, name=var.name)


def _is_last(view: View) -> bool:
    """Say whether the pieces of the last axis are stored after all others."""
    rows = [a for group in view.axes[:-1] for a in group]
    return not rows or not view.axes[-1] or max(rows) < min(view.axes[-1])


def _rows(view: View) -> Shape:
    """Return the stored shape of the rows where k is 1: all but one axis of size 1, if any."""
    stored = view.stored
    return stored[:-1] if stored and stored[-1] == 1 else stored


def _with_last_axis_last(view: View) -> View:
    """Return the nearest view that stores the last axis after the rows."""
    inner = view.axes[-1]
    order = (*(a for a in range(len(view.stored)) if a not in inner), *inner)
    return View(
        logical=view.logical,
        stored=tuple(view.stored[a] for a in order),
        axes=tuple(tuple(order.index(a) for a in group) for group in view.axes),
    )


def _permuted_rows(weight: np.ndarray, view: View) -> np.ndarray:
    """Bring the rows of a (k, n) matrix into the order in which the last axis is stored."""
    pieces = view.axes[-1]
    sizes = [view.stored[a] for a in pieces]
    assert math.prod(sizes) == weight.shape[0], "a matmul's k is the last axis of its data"
    by_store = sorted(range(len(pieces)), key=lambda i: pieces[i])
    moved = weight.reshape(*sizes, -1).transpose(*by_store, len(sizes))
    return np.array(moved.reshape(weight.shape), order="C")
