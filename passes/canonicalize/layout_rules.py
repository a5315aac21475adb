"""How each operator runs on stored tensors: what it asks for, and what it leaves behind.

A rule gets a call of the function as it was and returns the stored result with its view. Three
kinds of operators: those that ask for a layout (convolutions and all that is spatial: channels
last), those that run on any (elementwise) or on any that keeps axes whole (reductions, softmax,
concat, ...: their axes are renumbered), and all others, which get the logical tensor itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import tvm
from tvm import relax

from tvmopt import forms, ir
from tvmopt.passes.canonicalize.layout_store import (
    Held,
    HeldTuple,
    Store,
    axes_of,
    without,
)
from tvmopt.passes.canonicalize.views import (
    Shape,
    View,
    ordered,
    plain,
    reshape,
    solid_order,
    transpose,
)

Result = Held | HeldTuple
LayoutRule = Callable[[Store, relax.Call, relax.Var], Result | None]


def spatial(*layout_attrs: str) -> LayoutRule:
    """Return the rule of an operator on one (n, c, h, w) tensor that can run on (n, h, w, c)."""

    def rule(store: Store, call: relax.Call, var: relax.Var) -> Result | None:
        letters = getattr(call.attrs, layout_attrs[0])
        last = _channels_last(letters)
        if last is None or any(getattr(call.attrs, a) != letters for a in layout_attrs):
            return None
        order = tuple(letters.index(axis) for axis in last)
        data = _want(store.tensor(call.args[0]), order)
        args = [store.place(*data), *store.rest(call)]
        new = ir.with_changes(call, args, **dict.fromkeys(layout_attrs, last))
        return store.run(var, new, order)

    return rule


def convolution(store: Store, call: relax.Call, var: relax.Var) -> Result | None:
    """Run a convolution, transposed or not, on channels-last data and an OHWI weight."""
    letters, kernel = call.attrs.data_layout, call.attrs.kernel_layout
    last = _channels_last(letters)
    if last is None or call.attrs.out_layout != letters or len(kernel) != len(letters):
        return None
    order = tuple(letters.index(axis) for axis in last)
    kernel_last = last.replace("N", "O").replace("C", "I")
    kernel_order = tuple(kernel.index(axis) for axis in kernel_last)
    args = [
        store.place(*_want(store.tensor(call.args[0]), order)),
        store.place(*_want(store.tensor(call.args[1]), kernel_order)),
    ]
    new = ir.with_changes(call, args, data_layout=last, kernel_layout=kernel_last, out_layout=last)
    return store.run(var, new, order)


def permute(store: Store, call: relax.Call, var: relax.Var) -> Result:
    """Let a transposition change the view."""
    held = store.tensor(call.args[0])
    axes = tuple(ir.permutation(call))
    return Held(expr=held.expr, view=transpose(held.view, axes), name=var.name)


def regroup(store: Store, call: relax.Call, var: relax.Var) -> Result:
    """Let a reshape, flatten, squeeze or expand_dims change the view where it can."""
    if isinstance(forms.match_stored(call, store.before), forms.Grouped):
        # The end of a constant by groups: whoever wants it otherwise moves its codes.
        return _as_it_is(store, call, var)
    held = store.tensor(call.args[0])
    view = reshape(held.view, ir.static_shape(var))
    if view is None:
        expr = store.place_plain(held)
        view = reshape(plain(held.view.logical), ir.static_shape(var))
        assert view is not None, "a tensor stored in order takes any shape"
        return Held(expr=expr, view=view, name=var.name)
    return Held(expr=held.expr, view=view, name=var.name)


def _as_it_is(store: Store, call: relax.Call, var: relax.Var) -> Held:
    data = store.place_plain(store.tensor(call.args[0]))
    expr = store.graph.emit(ir.with_changes(call, [data, *call.args[1:]]), var.name)
    return Held(expr=expr, view=plain(ir.static_shape(var)), name=var.name)


def along(*, axis: str = "axis") -> LayoutRule:
    """Return the rule of an operator that keeps the shape and has one axis, an attribute.

    Nothing but that axis has to be in one piece.
    """

    def rule(store: Store, call: relax.Call, var: relax.Var) -> Result | None:
        at, held = getattr(call.attrs, axis), store.tensor(call.args[0])
        if at is None:
            return None
        pieces = held.view.axes[at % len(held.view.logical)]
        if len(pieces) == 1:
            expr = store.reshape(held.expr, held.view.stored, held.name)
            new = ir.with_changes(call, [expr, *store.rest(call)], **{axis: pieces[0]})
            return Held(expr=store.graph.emit(new, var.name), view=held.view, name=var.name)
        expr, order = store.whole(held)
        stored = order.index(at % len(order))
        return store.run(
            var, ir.with_changes(call, [expr, *store.rest(call)], **{axis: stored}), order
        )

    return rule


def concat(store: Store, call: relax.Call, var: relax.Var) -> Result | None:
    """Concatenate in the order in which the largest operand is stored."""
    if not isinstance(call.args[0], relax.Tuple):
        return None
    parts = [store.tensor(item) for item in call.args[0].fields]
    largest = max(parts, key=lambda p: (not ir.is_constant(p.expr), _elements(p.view)))
    order = solid_order(largest.view)
    exprs = [store.place(p, ordered(p.view.logical, order)) for p in parts]
    axis = order.index((call.attrs.axis or 0) % len(order))
    return store.run(var, ir.with_changes(call, [relax.Tuple(exprs)], axis=axis), order)


def split(store: Store, call: relax.Call, var: relax.Var) -> Result:
    """Split along the stored axis."""
    expr, order = store.whole(store.tensor(call.args[0]))
    axis = order.index(call.attrs.axis % len(order))
    if not isinstance(var.ty, relax.TupleType):  # a split into one
        return store.run(var, ir.with_changes(call, [expr], axis=axis), order)
    whole = store.graph.emit(ir.with_changes(call, [expr], axis=axis), var.name)
    return tuple(
        Held(
            expr=store.graph.emit(relax.TupleGetItem(whole, i), f"{var.name}_{i}"),
            view=ordered(tuple(int(d) for d in part.shape), order),
            name=f"{var.name}_{i}",
        )
        for i, part in enumerate(var.ty.fields)
    )


def strided_slice(store: Store, call: relax.Call, var: relax.Var) -> Result:
    """Slice along the stored axes."""
    expr, order = store.whole(store.tensor(call.args[0]))
    axes = [order.index(int(a) % len(order)) for a in call.args[1].fields]
    index = relax.Tuple([tvm.tirx.IntImm("int64", a) for a in axes])
    return store.run(var, ir.with_changes(call, [expr, index, *call.args[2:]]), order)


def take(store: Store, call: relax.Call, var: relax.Var) -> Result | None:
    """Take along the stored axis, where the indices are one row of them or a single one."""
    indices = store.tensor(call.args[1])
    if ir.is_constant(call.args[0]) or call.attrs.axis is None or len(indices.view.logical) > 1:
        return None
    expr, order = store.whole(store.tensor(call.args[0]))
    axis = call.attrs.axis % len(order)
    args = [expr, store.place_plain(indices)]
    new = ir.with_changes(call, args, axis=order.index(axis))
    if len(indices.view.logical) == 1:
        return store.run(var, new, order)
    return store.run(var, new, without(order, [axis]))


def pad(store: Store, call: relax.Call, var: relax.Var) -> Result:
    """Pad the stored axes."""
    expr, order = store.whole(store.tensor(call.args[0]))
    width = [int(w) for w in call.attrs.pad_width]
    stored = [w for a in order for w in width[2 * a : 2 * a + 2]]
    return store.run(var, ir.with_changes(call, [expr], pad_width=stored), order)


def tile(store: Store, call: relax.Call, var: relax.Var) -> Result | None:
    """Tile the stored axes."""
    expr, order = store.whole(store.tensor(call.args[0]))
    repeats = [int(r) for r in call.attrs.repeats]
    if len(repeats) != len(order):
        return None
    return store.run(var, ir.with_changes(call, [expr], repeats=[repeats[a] for a in order]), order)


def broadcast_to(store: Store, call: relax.Call, var: relax.Var) -> Result:
    """Broadcast the stored axes; new ones in front are of size 1 first."""
    held, shape = store.tensor(call.args[0]), ir.static_shape(var)
    view = reshape(held.view, (1,) * (len(shape) - len(held.view.logical)) + held.view.logical)
    assert view is not None, "axes of size 1 cut nothing"
    expr, order = store.whole(Held(expr=held.expr, view=view, name=held.name))
    stored = relax.ShapeExpr([shape[a] for a in order])
    return store.run(var, ir.with_changes(call, [expr, stored]), order)


def normalize(store: Store, call: relax.Call, var: relax.Var) -> Result:
    """Run a norm over ``axes``, which are the last stored ones in their logical order."""
    held = store.tensor(call.args[0])
    view, axes = held.view, axes_of(call.attrs.axes, len(held.view.logical))
    pieces = [place for a in axes for place in view.axes[a]]
    if len(pieces) == len(axes) and pieces == _last(view, len(pieces)):
        expr = store.reshape(held.expr, view.stored, held.name)
        new = ir.with_changes(call, [expr, *store.rest(call)], axes=pieces)
        return Held(expr=store.graph.emit(new, var.name), view=view, name=var.name)
    order = (*(a for a in solid_order(view) if a not in axes), *axes)
    expr = store.place(held, ordered(view.logical, order))
    stored = [order.index(a) for a in axes]
    return store.run(var, ir.with_changes(call, [expr, *store.rest(call)], axes=stored), order)


def _last(view: View, count: int) -> list[int]:
    return list(range(len(view.stored)))[-count:]


def quantize(store: Store, call: relax.Call, var: relax.Var) -> Result | None:
    """Quantize or dequantize in any order; parameters of a channel each follow their axis."""
    held = store.tensor(call.args[0])
    if ir.is_constant(held.expr):
        return None
    if all(a.ty.ndim == 0 for a in call.args[1:]):
        # The stored tensor may have fewer axes than the one that the attribute counts.
        new = ir.with_changes(call, [held.expr, *store.rest(call)], axis=0)
        return Held(expr=store.graph.emit(new, var.name), view=held.view, name=var.name)
    return along()(store, call, var)


def _want(held: Held, order: Shape) -> tuple[Held, View]:
    return held, ordered(held.view.logical, order)


def _channels_last(letters: str) -> str | None:
    """Return the channels-last spelling of a layout that has channels, such as ``NHWC``."""
    if sorted(letters) not in (sorted("NCHW"), sorted("NCDHW"), sorted("NCW")):
        return None
    return "N" + "".join(axis for axis in "DHW" if axis in letters) + "C"


def _elements(view: View) -> int:
    return math.prod(view.logical)
