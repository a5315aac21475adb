"""Decide what a program stores, and write out what each stored stage computes.

Before::

    a[i] = exp(x[i]);  b[i] = a[i] * 2;  s = sum_i a[i];  y[i] = b[i] / s

After (``b`` is computed where it is used, ``a`` would be computed twice)::

    a[i] = exp(x[i])
    s = sum_i a[i]
    y[i] = let v = a[i], w = v * 2 in w / s

A stage is stored if it is a reduction or an output, or if its users would evaluate it more often
than it has elements and it costs more than a few operations.

Source: none; the criterion is derived here (TVM's own inlining never weighs recomputation).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import tvm_ffi
from tvm import tirx
from tvm.ir import Call, Expr, TensorLoad

from tvmopt.schedule.expressions import (
    IF_THEN_ELSE,
    is_call,
    linear,
    loads,
    structural_key,
    substitute,
)
from tvmopt.schedule.stages import Program, Stage

# What a stage may cost to be computed again rather than stored and loaded: a store and a load, and
# the loop around them, are worth this many simple operations.
RECOMPUTE_OPERATIONS = 4

# How often each place of a stage is evaluated, by the stored stage that asks for it and by indices.
_Demands = dict[tuple[int, tvm_ffi.StructuralKey], int]

_COSTLY = 20  # operations in one libm-like function or a division


def stored_stages(program: Program) -> tuple[Stage, ...]:
    """Return the stages whose results need memory, in the program's order."""
    producer = {stage.buffers[0]: stage for stage in program.stages}
    outputs = set(program.outputs)
    demands: dict[int, _Demands] = {}
    roots: dict[int, Stage] = {}
    stored = []
    for stage in reversed(program.stages):
        wanted = demands.get(id(stage), {})
        if _must_store(stage, outputs) or not _cheaper_inline(stage, wanted):
            stored.append(stage)
            roots[id(stage)] = stage
            places = [(id(stage), stage.indices)]
        else:
            places = [(root, key.key) for root, key in wanted]
        for root, indices in places:
            _demand(stage, roots[root], tuple(indices), producer, demands)
    return tuple(reversed(stored))


def _must_store(stage: Stage, outputs: set[tirx.Buffer]) -> bool:
    return bool(stage.start) or not outputs.isdisjoint(stage.buffers)


def _cheaper_inline(stage: Stage, wanted: _Demands) -> bool:
    return sum(wanted.values()) <= stage.size or operations(stage) <= RECOMPUTE_OPERATIONS


def _demand(
    stage: Stage,
    root: Stage,
    indices: tuple[Expr, ...],
    producer: Mapping[tirx.Buffer, Stage],
    demands: dict[int, _Demands],
) -> None:
    """Note what ``stage``, evaluated at ``indices`` on behalf of ``root``, needs of others."""
    at = place(stage, indices)
    for value in stage.values:
        for load in loads(value):
            if load.source in producer:
                source = producer[load.source]
                read = [substitute(index, at) for index in load.indices]
                # Distinct steps that read distinct elements are no more than there are elements,
                # even if all else is masked by a condition (as in a concatenation).
                steps = min(root.steps, source.size) if _injective(read, root) else root.steps
                wanted = demands.setdefault(id(source), {})
                wanted[id(root), structural_key(read)] = steps


def _injective(indices: list[Expr], root: Stage) -> bool:
    """Say whether no two steps of ``root`` have the same indices."""
    axes = {axis.var for axis in (*root.spatial, *root.reduce)}
    alone: set[tirx.Var] = set()
    for index in indices:
        form = linear(index)
        if not form.opaque and len(form.coefficients) == 1:
            alone.update(form.coefficients)
    return axes <= alone


def place(stage: Stage, indices: Sequence[Expr]) -> dict[tirx.Var, Expr]:
    """Return the values of the stage's spatial axes where it writes ``indices``."""
    return {
        own: index
        for own, index in zip(stage.indices, indices, strict=True)
        if isinstance(own, tirx.Var)
    }


def operations(stage: Stage) -> int:
    """Return roughly how many simple operations one element of ``stage`` takes."""
    count = 0

    def visit(node: Expr) -> None:
        nonlocal count
        if isinstance(node, Call):
            count += _COSTLY
        elif isinstance(node, tirx.Div):
            count += _COSTLY if _is_float(node) else 1
        elif not isinstance(node, tirx.Var | tirx.IntImm | tirx.FloatImm | TensorLoad):
            count += 1 if _is_float(node) or not _is_index(node) else 0

    for value in stage.values:
        tvm_ffi.structural_walk(value, (Expr, visit))
    return count


def _is_float(node: Expr) -> bool:
    return str(node.ty.dtype).startswith("float")


def _is_index(node: Expr) -> bool:
    return str(node.ty.dtype) == "int64"


def _is_condition(value: Expr) -> bool:
    return str(value.ty.dtype) == "bool" and not isinstance(value, TensorLoad)


@dataclass(slots=True)
class Scope:
    """Values that one evaluation has named, in the order in which they are computed.

    Attributes:
        bindings: Variables and their values.
        outer: The scope around this one, whose names are visible here.
    """

    outer: Scope | None = None
    bindings: list[tuple[tirx.Var, Expr]] = field(default_factory=list)
    _known: dict[object, tirx.Var] = field(default_factory=dict)

    def find(self, key: object) -> tirx.Var | None:
        """Return the variable that holds what ``key`` stands for, if there is one."""
        found = self._known.get(key)
        return found if found is not None or self.outer is None else self.outer.find(key)

    def name(self, key: object, value: Expr, hint: str) -> Expr:
        """Return a variable for ``value``, or ``value`` itself where a name would gain nothing.

        Conditions stay where they are used: a name would hide them from what cuts the axes.
        """
        if isinstance(value, tirx.Var | tirx.IntImm | tirx.FloatImm) or _is_condition(value):
            return value
        var = tirx.Var(hint, value.ty)
        self.bindings.append((var, value))
        self._known[key] = var
        return var

    def wrap(self, value: Expr) -> Expr:
        """Return ``value`` within lets of this scope's names."""
        for var, bound in reversed(self.bindings):
            value = tirx.Let(var, bound, value)
        return value


class Expander:
    """Writes out expressions in terms of stored buffers only."""

    def __init__(self, program: Program, stored: tuple[Stage, ...]) -> None:
        self._inlined = {stage.buffers[0]: stage for stage in program.stages if stage not in stored}

    def expand(self, value: Expr, scope: Scope) -> Expr:
        """Return ``value`` without loads of inlined stages; what they compute goes to ``scope``.

        What stands in one branch of a condition is computed there only: it may read out of bounds
        where the condition does not hold.
        """
        return tvm_ffi.structural_mutate(
            value,
            [
                (TensorLoad, lambda load, mutator: self._load(load, scope, mutator)),
                (Call, lambda call, mutator: self._call(call, scope, mutator)),
                (tirx.Select, lambda node, _: self._select(node, scope)),
                (tirx.Let, lambda node, _: self._let(node, scope)),
            ],
        )

    def _load(
        self, load: TensorLoad, scope: Scope, mutator: tvm_ffi.structural.StructuralMutator
    ) -> Expr:
        stage = self._inlined.get(load.source)
        if stage is None:
            return mutator.default_mutate(load)
        indices = [self.expand(index, scope) for index in load.indices]
        key = (stage.buffers[0], structural_key(indices))
        found = scope.find(key)
        if found is not None:
            return found
        value = substitute(stage.values[0], place(stage, indices))
        return scope.name(key, self.expand(value, scope), stage.buffers[0].name)

    def _branch(self, value: Expr, scope: Scope) -> Expr:
        inner = Scope(outer=scope)
        return inner.wrap(self.expand(value, inner))

    def _call(
        self, call: Call, scope: Scope, mutator: tvm_ffi.structural.StructuralMutator
    ) -> Expr:
        if not is_call(call, IF_THEN_ELSE):
            return mutator.default_mutate(call)
        condition, yes, no = call.args
        return tirx.if_then_else(
            self.expand(condition, scope), self._branch(yes, scope), self._branch(no, scope)
        )

    def _select(self, node: tirx.Select, scope: Scope) -> Expr:
        return tirx.Select(
            self.expand(node.condition, scope),
            self._branch(node.true_value, scope),
            self._branch(node.false_value, scope),
        )

    def _let(self, node: tirx.Let, scope: Scope) -> Expr:
        """Turn a let into a name: nested lets confuse TVM's analyzer once they are vectorized."""
        named = scope.name(node.var, self.expand(node.value, scope), node.var.name)
        return self.expand(substitute(node.body, {node.var: named}), scope)
