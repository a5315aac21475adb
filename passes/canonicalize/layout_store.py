"""Which stored tensor holds each logical one, and the moves between stored forms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tvm import relax

from tvmopt import forms, ir
from tvmopt.passes.canonicalize.rebuild import Rebuild
from tvmopt.passes.canonicalize.views import (
    Shape,
    View,
    ordered,
    plain,
    solid_order,
    steps_between,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """A tensor of the model and the one that stores it.

    Attributes:
        expr: The stored tensor, a variable or a constant; its shape is that of ``view.stored`` up
            to a reshape.
        view: How it holds the logical tensor.
        name: The name of the logical tensor, for the moves it may need.
    """

    expr: relax.Expr
    view: View
    name: str

    @property
    def shape(self) -> Shape:
        """The shape of the stored tensor as it is."""
        return ir.static_shape(self.expr)


HeldTuple = tuple["Held | HeldTuple", ...]


def moves(source: View, target: View) -> bool:
    """Say whether going from one view to another moves data, rather than only reshaping."""
    return any(step.axes is not None for step in steps_between(source, target))


def axes_of(axes: Sequence[int] | int, rank: int) -> list[int]:
    """Return the axes of an attribute in [0, rank)."""
    return [int(a) % rank for a in ([axes] if isinstance(axes, int) else axes)]


def without(order: Shape, dropped: Sequence[int]) -> Shape:
    """Return the stored order of the axes that are left, under their new numbers."""
    kept = [a for a in order if a not in dropped]
    return tuple(sorted(kept).index(a) for a in kept)


class Store:
    """The stored form of every tensor rewritten so far.

    Attributes:
        graph: Where new bindings go.
        moved: The names of the tensors that had to be transposed.
    """

    def __init__(self, graph: Rebuild) -> None:
        self.graph = graph
        self.moved: list[str] = []
        self._held: dict[relax.Var, Held | HeldTuple] = {}
        self._placed: dict[tuple[relax.Expr, View, View], relax.Expr] = {}

    def keep(self, var: relax.Var, held: Held | HeldTuple) -> None:
        """Note how the old variable ``var`` is stored."""
        self._held[var] = held

    def before(self, expr: relax.Expr) -> relax.Expr:
        """Return what a variable of the function as it was is bound to."""
        return self.graph.old.get(expr, expr) if isinstance(expr, relax.Var) else expr

    def get(self, expr: relax.Expr) -> Held | HeldTuple:
        """Return how an operand in the function as it was is stored."""
        if isinstance(expr, relax.Var):
            return self._held[expr]
        if isinstance(expr, relax.Tuple):
            return tuple(self.get(item) for item in expr.fields)
        return Held(expr=expr, view=plain(ir.static_shape(expr)), name="constant")

    def tensor(self, expr: relax.Expr) -> Held:
        """Return how an operand that is a tensor is stored."""
        held = self.get(expr)
        assert isinstance(held, Held), "operators take tensors, but for concat and calls"
        return held

    def place(self, held: Held, target: View) -> relax.Expr:
        """Return the tensor stored as ``target``: constants are moved now, the rest at run time."""
        value = ir.constant(held.expr)
        if value is not None:
            return relax.const(move_constant(value, held.view, target), ir.dtype(held.expr))
        key = (held.expr, held.view, target)
        if key not in self._placed:
            inner = self._place_inside(held, target)
            self._placed[key] = self._move(held, target) if inner is None else inner
        return self._placed[key]

    def place_plain(self, held: Held | HeldTuple) -> relax.Expr:
        """Return the logical tensor itself, or a tuple of them."""
        if isinstance(held, tuple):
            return relax.Tuple([self.place_plain(item) for item in held])
        return self.place(held, plain(held.view.logical))

    def reshape(self, expr: relax.Expr, shape: Sequence[int], name: str) -> relax.Expr:
        """Return ``expr`` under another shape, without a binding where it has that shape."""
        if ir.static_shape(expr) == tuple(shape):
            return expr
        return self.graph.emit(relax.op.reshape(expr, tuple(shape)), _named(name, "reshape"))

    def whole(self, held: Held) -> tuple[relax.Expr, Shape]:
        """Return a tensor that stores each axis in one piece, and the order it stores them in."""
        order = solid_order(held.view)
        return self.place(held, ordered(held.view.logical, order)), order

    def rest(self, call: relax.Call) -> list[relax.Expr]:
        """Return the operands after the first as the logical tensors they are."""
        return [
            self.place_plain(self.tensor(a)) if isinstance(a.ty, relax.TensorType) else a
            for a in call.args[1:]
        ]

    def run(self, var: relax.Var, call: relax.Call, order: Shape) -> Held:
        """Bind the call that computes ``var`` with its logical axes stored in ``order``."""
        expr = self.graph.emit(call, var.name)
        return Held(expr=expr, view=ordered(ir.static_shape(var), order), name=var.name)

    def _move(self, held: Held, target: View) -> relax.Expr:
        expr = held.expr
        for step in steps_between(held.view, target):
            if step.axes is None:
                continue
            expr = self.reshape(expr, step.before, held.name)
            expr = self.graph.emit(
                relax.op.permute_dims(expr, list(step.axes)), _named(held.name, "layout")
            )
            self.moved.append(held.name)
        return self.reshape(expr, target.stored, held.name)

    def _place_inside(self, held: Held, target: View) -> relax.Expr | None:
        """Move the codes of a stored constant, if ``held`` is one, instead of what they mean."""
        stored = forms.match_stored(held.expr, self.graph.definition)
        if stored is None or stored.shape != held.view.logical or not held.view.is_in_order():
            return None
        if not is_permuted(target):
            return None
        order = [target.axes.index((place,)) for place in sorted(target.order)]
        units = [i for i, group in enumerate(target.axes) if not group]
        moved = stored.transposed([*units, *order]).reshaped(target.stored)
        return None if moved is None else moved.build(self.graph.emit, held.name)


def _named(name: str, what: str) -> str:
    """Return the name of what is made of a tensor; the same however often it is made again."""
    return name if name.endswith(f"_{what}") else f"{name}_{what}"


def is_permuted(view: View) -> bool:
    """Say whether each logical axis is stored as one."""
    return all(len(group) < 2 for group in view.axes)


def move_constant(value: np.ndarray, source: View, target: View) -> np.ndarray:
    """Return the value stored as ``source`` in the form ``target``."""
    for step in steps_between(source, target):
        value = value.reshape(step.before)
        value = value if step.axes is None else value.transpose(step.axes)
        value = value.reshape(step.after)
    return np.array(value.reshape(target.stored), order="C")
