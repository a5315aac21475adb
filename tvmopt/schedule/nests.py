"""A stage ready to be emitted: flat buffers, and axes merged wherever memory is contiguous."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import tvm_ffi
from tvm import tirx
from tvm.ir import Expr, TensorLoad

from tvmopt.schedule.expressions import (
    Axis,
    Linear,
    flat,
    linear,
    loads,
    substitute,
    variables,
    vectorizes,
)
from tvmopt.schedule.stages import Stage, shape


@dataclass(frozen=True, kw_only=True, slots=True)
class Body:
    """What a stored stage computes, in terms of stored buffers.

    Attributes:
        stage: The stage.
        bindings: Names and their values, each in terms of earlier names.
        values: What is written, one a buffer.
    """

    stage: Stage
    bindings: tuple[tuple[tirx.Var, Expr], ...]
    values: tuple[Expr, ...]

    @property
    def reads(self) -> list[TensorLoad]:
        """Every load of it."""
        exprs = [*(value for _, value in self.bindings), *self.values, *self.stage.start]
        return [load for value in exprs for load in loads(value)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Storage:
    """Where a buffer's elements lie.

    Attributes:
        flat: The buffer, of one dimension.
        dimensions: The dimensions of the original buffer that it has; the others are the loops
            around it.
    """

    flat: tirx.Buffer
    dimensions: tuple[int, ...]

    def offset(self, original: tirx.Buffer, indices: Sequence[Expr]) -> Expr:
        """Return where the element at ``indices`` of the original buffer lies."""
        extents = shape(original)
        return flat([indices[d] for d in self.dimensions], [extents[d] for d in self.dimensions])


@dataclass(frozen=True, kw_only=True, slots=True)
class Nest:
    """Loops that compute one stage, or one part of it.

    Attributes:
        spatial: Its own spatial axes, in the order in which it writes.
        reduce: The axes of its reduction.
        bindings: Names and their values, each in terms of earlier names.
        start: A reduction's first partial results.
        partials: Variables for the partial results in ``values``.
        values: What is written, one a target.
        targets: Flat buffers and offsets that are written.
    """

    spatial: tuple[Axis, ...]
    reduce: tuple[Axis, ...]
    bindings: tuple[tuple[tirx.Var, Expr], ...]
    start: tuple[Expr, ...]
    partials: tuple[tirx.Var, ...]
    values: tuple[Expr, ...]
    targets: tuple[tuple[tirx.Buffer, Expr], ...]

    @property
    def steps(self) -> int:
        """Evaluations of ``values`` within one round of the loops around the nest."""
        return prod(axis.extent for axis in (*self.spatial, *self.reduce))

    def expressions(self) -> list[Expr]:
        """Return every expression of it but the offsets it writes."""
        return [*(value for _, value in self.bindings), *self.values, *self.start]

    def map(self, function: Callable[[Expr], Expr]) -> Nest:
        """Return the nest with ``function`` applied to every expression."""
        return replace(
            self,
            bindings=tuple((var, function(value)) for var, value in self.bindings),
            start=tuple(function(value) for value in self.start),
            values=tuple(function(value) for value in self.values),
            targets=tuple((buffer, function(offset)) for buffer, offset in self.targets),
        )

    def substitute(self, values: Mapping[tirx.Var, Expr]) -> Nest:
        """Return the nest with variables, or buffers, replaced."""
        if not values:
            return self
        nest = self.map(lambda expr: substitute(expr, values))
        targets = tuple((values.get(buffer, buffer), at) for buffer, at in nest.targets)
        return replace(nest, targets=targets)

    def access_forms(self) -> list[Linear]:
        """Return the offset of each load and store as a linear form in the axes."""
        named: dict[tirx.Var, frozenset[tirx.Var]] = {}
        for var, value in self.bindings:
            reads = variables(value)
            named[var] = reads.union(*(named.get(read, frozenset()) for read in reads))
        offsets = [load.indices[0] for value in self.expressions() for load in loads(value)]
        return [linear(offset, named) for offset in (*offsets, *(at for _, at in self.targets))]

    def vectorizes(self, axis: Axis) -> bool:
        """Say whether the nest's values can be computed for several steps of ``axis`` at once."""
        varying = frozenset({axis.var, *self.partials})
        for var, value in self.bindings:
            if not vectorizes(value, varying):
                return False
            if variables(value) & varying:
                varying |= {var}
        return all(vectorizes(value, varying) for value in (*self.values, *self.start))

    def values_use(self) -> frozenset[tirx.Var]:
        """Return the variables that are read elsewhere than in a load's offset."""
        zero = tirx.const(0, "int64")
        found = (
            variables(tvm_ffi.structural_mutate(value, (TensorLoad, lambda _load, _mutator: zero)))
            for value in self.expressions()
        )
        return frozenset().union(*found, frozenset())


def merge(
    axes: Sequence[Axis], nests: Iterable[Nest]
) -> tuple[tuple[Axis, ...], dict[tirx.Var, Expr]]:
    """Return the axes with neighbours merged where every access allows, and what to replace.

    Outer axis o and inner axis i become one of ``o.extent * i.extent`` steps if a step of o moves
    every access as far as ``i.extent`` steps of i do. It keeps i's variable; o's becomes 0.
    """
    nests = list(nests)
    forms = [form for nest in nests for form in nest.access_forms()]
    used = frozenset().union(*(nest.values_use() for nest in nests), frozenset())
    merged: list[Axis] = []
    replaced: dict[tirx.Var, Expr] = {}
    for inner in axes:
        outer = merged[-1] if merged else None
        if outer is not None and not {outer.var, inner.var} & used and _follow(outer, inner, forms):
            replaced[outer.var] = tirx.const(0, outer.var.ty.dtype)
            merged[-1] = Axis(var=inner.var, extent=outer.extent * inner.extent)
        else:
            merged.append(inner)
    return tuple(merged), replaced


def _follow(outer: Axis, inner: Axis, forms: list[Linear]) -> bool:
    for form in forms:
        step, near = form.stride(outer.var), form.stride(inner.var)
        if step is None or near is None or step != near * inner.extent:
            return False
    return True


def merge_own(nest: Nest) -> Nest:
    """Return the nest with its own spatial and reduction axes merged."""
    spatial, replaced = merge(nest.spatial, [nest])
    nest = replace(nest.substitute(replaced), spatial=spatial)
    reduce, replaced = merge(nest.reduce, [nest])
    return replace(nest.substitute(replaced), reduce=reduce)
