"""Matmuls by a constant matrix on stored tensors: the constant is permuted, not the data.

The constant may be kept in fewer bits (``forms.match_stored``): then its codes are permuted.
"""

from __future__ import annotations

import math

import numpy as np
from tvm import relax

from tvmopt import forms, ir
from tvmopt.forms import Stored
from tvmopt.passes.canonicalize.layout_store import Held, Store
from tvmopt.passes.canonicalize.views import Shape, View, plain


def matmul(store: Store, call: relax.Call, var: relax.Var) -> Held | None:
    """Multiply by a constant (k, n) matrix whatever the order of rows and of pieces of k.

    After ``flatten`` of an (n, c, h, w) tensor stored as (n, h, w, c), k runs over (c, h, w) but is
    stored as (h, w, c): the rows of the constant are brought into that order instead.
    """
    held, weight = store.tensor(call.args[0]), _constant(store, call.args[1])
    if weight is None or len(weight.shape) != 2 or len(held.view.logical) < 2:
        return None
    view = held.view
    if not _is_last(view):
        view = _with_last_axis_last(view)
        held = Held(expr=store.place(held, view), view=view, name=held.name)
    inner = sorted(view.axes[-1])
    # Axes of size 1 among or after those of k are dropped; the rows keep their shape.
    rows = view.stored[: inner[0]] if inner else _rows(view)
    right = store.tensor(call.args[1]).expr
    if list(view.axes[-1]) != inner:
        moved = _permuted_rows(weight, view)
        if moved is None:
            return None
        right = _operand(store, moved, f"{var.name}_weight")
    data = store.reshape(held.expr, (*(rows or (1,)), weight.shape[0]), held.name)
    new = ir.with_changes(call, [data, right])
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


def _constant(store: Store, expr: relax.Expr) -> np.ndarray | Stored | None:
    """Return a constant operand, or what it is decoded from."""
    value = ir.constant(expr)
    if value is not None or not isinstance(expr, relax.Var):
        return value
    held = store.tensor(expr)
    stored = forms.match_stored(held.expr, store.graph.definition)
    return stored if held.view == plain(ir.static_shape(expr)) else None


def _operand(store: Store, weight: np.ndarray | Stored, name: str) -> relax.Expr:
    if isinstance(weight, np.ndarray):
        return relax.const(weight)
    return weight.build(store.graph.emit, name)


def _permuted_rows(weight: np.ndarray | Stored, view: View) -> np.ndarray | Stored | None:
    """Bring the rows of a (k, n) matrix into the order in which the last axis is stored.

    None if that would tear groups of rows apart.
    """
    pieces = view.axes[-1]
    sizes = [view.stored[a] for a in pieces]
    assert math.prod(sizes) == weight.shape[0], "a matmul's k is the last axis of its data"
    by_store = sorted(range(len(pieces)), key=lambda i: pieces[i])
    if isinstance(weight, np.ndarray):
        moved = weight.reshape(*sizes, -1).transpose(*by_store, len(sizes))
        return np.array(moved.reshape(weight.shape), order="C")
    cut = weight.reshaped((*sizes, weight.shape[1]))
    return None if cut is None else cut.transposed([*by_store, len(sizes)]).reshaped(weight.shape)
