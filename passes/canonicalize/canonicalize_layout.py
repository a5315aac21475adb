"""Bring the graph to channels-last, and let transpositions and reshapes cancel.

Before, as ONNX has it::

    y: (n, o, h, w) = conv2d(x: (n, c, h, w), W, layouts NCHW, OIHW)
    z: (n, o, h, w) = relu(add(y, b: (1, o, 1, 1)))
    u: (n, o * h * w) = reshape(z);  v: (n, k) = matmul(u, M)

After::

    t: (n, h, w, c) = permute_dims(x)                    once, at the input
    y: (n, h, w, o) = conv2d(t, W', layouts NHWC, OHWI)
    z: (n, h, w, o) = relu(add(y, b': (1, 1, 1, o)))
    u: (n, h * w * o) = reshape(z);  v: (n, k) = matmul(u, M')

Inputs and results of the graph keep the layouts of the model; constants are permuted at compile
time. Cost: one transposition at each input and result that is spatial, none in between.

One forward walk keeps for every tensor of the model a stored tensor and a view of it (views.py).
Transpositions, reshapes, squeezes of the model only change the view; an operator that cares asks
for the stored form it wants, and only then is data moved, once for all who ask the same. So a model
that is channels-last under its ONNX clothes loses all its transpositions.

Source: none; derived here. That the layout belongs to the site, and that layouts are propagated
through elementwise operators, is common to all inference engines; views are our own.
"""

from __future__ import annotations

import tvm
from tvm import relax

from tvmopt import forms, ir
from tvmopt.passes.canonicalize.layout_store import Held, HeldTuple, Store
from tvmopt.passes.canonicalize.layout_table import LAYOUT_RULES
from tvmopt.passes.canonicalize.rebuild import Rebuild, Rule, rebuild_main
from tvmopt.passes.canonicalize.views import plain
from tvmopt.report import Report


@tvm.transform.module_pass(opt_level=0, name="CanonicalizeLayout")
class CanonicalizeLayout:
    """Store every tensor the way its operators like it."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the rewritten module; ``mod`` is left as it was."""
        if not _is_static(mod["main"]):
            self.report.add(
                "CanonicalizeLayout", "main", applied=False, reason="a tensor has no static shape"
            )
            return mod
        stores: list[Store] = []

        def make_rule(graph: Rebuild) -> Rule:
            layouter = _Layouter(graph, mod["main"])
            stores.append(layouter.store)
            return layouter

        new = rebuild_main(mod, make_rule)
        for name in (name for store in stores for name in store.moved):
            self.report.add(
                "CanonicalizeLayout",
                name,
                applied=True,
                reason="its readers want it in another order than it is made in",
            )
        return new


class _Layouter:
    def __init__(self, graph: Rebuild, func: relax.Function) -> None:
        self.graph = graph
        self.store = Store(graph)
        self.rows = _quantized_by_row(func)
        for param in func.params:
            self.store.keep(param, self._as_it_is(param, param.ty, param.name))

    def __call__(self, var: relax.Var, _value: relax.Expr) -> relax.Expr:
        held = self._held(var, self.graph.old[var])
        if var in self.rows and isinstance(held, Held):
            view = plain(held.view.logical)
            held = Held(expr=self.store.place(held, view), view=view, name=held.name)
        self.store.keep(var, held)
        if var.same_as(self.graph.result):
            return self.store.place_plain(held)
        return _stored(held)

    def _held(self, var: relax.Var, old: relax.Expr) -> Held | HeldTuple:
        if isinstance(old, relax.TupleGetItem):
            whole = self.store.get(old.tuple_value)
            assert isinstance(whole, tuple), "only tuples have items"
            return whole[old.index]
        if not isinstance(old, relax.Call):
            return self.store.get(old)
        rule = LAYOUT_RULES.get(old.op.name) if isinstance(old.op, tvm.ir.Op) else None
        held = rule(self.store, old, var) if rule is not None else None
        return self._plain(var, old) if held is None else held

    def _plain(self, var: relax.Var, call: relax.Call) -> Held | HeldTuple:
        """Run an operator no rule knows on the logical tensors themselves."""
        args = [self._logical(a) for a in call.args]
        new = self.graph.emit(relax.Call(call.op, args, call.attrs, call.ty_args), var.name)
        return self._as_it_is(new, var.ty, var.name)

    def _logical(self, arg: relax.Expr) -> relax.Expr:
        if isinstance(arg, relax.Tuple):
            return relax.Tuple([self._logical(item) for item in arg.fields])
        if isinstance(arg, relax.Var):
            return self.store.place_plain(self.store.get(arg))
        return arg

    def _as_it_is(self, expr: relax.Expr, ty: relax.Type, name: str) -> Held | HeldTuple:
        if isinstance(ty, relax.TupleType):
            return tuple(
                self._as_it_is(
                    self.graph.emit(relax.TupleGetItem(expr, i), f"{name}_{i}"), t, f"{name}_{i}"
                )
                for i, t in enumerate(ty.fields)
            )
        return Held(expr=expr, view=plain(tuple(int(d) for d in ty.shape)), name=name)


def _quantized_by_row(func: relax.Function) -> set[relax.Var]:
    """Return the tensors whose rows get scales at run time.

    These are stored as they are: in pieces, a row would be no row any more.
    """
    bound = dict(ir.bindings(func))
    found = (forms.match_rows(value, lambda e: bound.get(e, e)) for value in bound.values())
    return {rows.x for rows in found if rows is not None and isinstance(rows.x, relax.Var)}


def _stored(held: Held | HeldTuple) -> relax.Expr:
    if isinstance(held, tuple):
        # Its fields are read one by one through the store; the tuple itself is dead.
        return relax.Tuple([_stored(item) for item in held])
    return held.expr


def _is_static(func: relax.Function) -> bool:
    """Say whether a view can describe every tensor: all dimensions known and larger than 0."""
    variables = [*func.params, *(var for var, _ in ir.bindings(func))]
    return all(_has_view(var.ty) for var in variables)


def _has_view(ty: relax.Type) -> bool:
    if isinstance(ty, relax.TupleType):
        return all(_has_view(t) for t in ty.fields)
    return (
        isinstance(ty, relax.TensorType)
        and isinstance(ty.shape, relax.ShapeExpr)
        and all(isinstance(d, tvm.tirx.IntImm) and int(d) > 0 for d in ty.shape)
    )
