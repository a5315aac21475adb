"""Read a PrimFunc as a list of tensor comprehensions.

What LegalizeOps and FuseTIR emit is a sequence of loop nests, each of which computes the whole of
one buffer (or of a few of one shape, for tuple reductions) from earlier ones::

    for i, j, k in T.grid(4, 5, 6):          spatial (i, j), reduce (k,)
        with T.init(): y[i, j] = 0           start (0,)
        y[i, j] = y[i, j] + x[i, k, j]       values (partial + x[i, k, j],), partials (partial,)

Once read so, the order of the loops is free. A function of any other form is not read.

Source: none; it is the form that ``te.create_prim_func`` writes, read back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import Expr, TensorLoad
from tvm.sym import Analyzer

from tvmopt.schedule.expressions import Axis, analyzer, loads, substitute, variables


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One comprehension.

    Attributes:
        buffers: What it writes, all of one shape.
        spatial: One axis for each dimension of the buffers longer than 1.
        reduce: The reduction's axes, those longer than 1.
        start: A reduction's first partial results, one a buffer; empty for anything else.
        partials: Variables that stand for the partial results in ``values``.
        values: What is written, one a buffer, in terms of the axes' variables.
    """

    buffers: tuple[tirx.Buffer, ...]
    spatial: tuple[Axis, ...]
    reduce: tuple[Axis, ...]
    start: tuple[Expr, ...]
    partials: tuple[tirx.Var, ...]
    values: tuple[Expr, ...]

    @property
    def size(self) -> int:
        """Elements of one of its buffers."""
        return prod(axis.extent for axis in self.spatial)

    @property
    def steps(self) -> int:
        """Evaluations of ``values``."""
        return self.size * prod(axis.extent for axis in self.reduce)

    @property
    def indices(self) -> tuple[Expr, ...]:
        """Where it writes, one index a dimension."""
        axes = iter(self.spatial)
        return tuple(
            tirx.const(0, "int64") if extent == 1 else next(axes).var
            for extent in shape(self.buffers[0])
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """A PrimFunc as comprehensions.

    Attributes:
        params: Its parameters.
        stages: In an order in which each reads only what earlier ones wrote.
    """

    params: tuple[tirx.Buffer, ...]
    stages: tuple[Stage, ...]

    @property
    def outputs(self) -> tuple[tirx.Buffer, ...]:
        """The parameters that it writes."""
        written = {buffer for stage in self.stages for buffer in stage.buffers}
        return tuple(buffer for buffer in self.params if buffer in written)


class _UnreadableError(Exception):
    """The function has another form; never leaves this module."""


def shape(buffer: tirx.Buffer) -> tuple[int, ...]:
    """Return a buffer's shape."""
    return tuple(int(extent) for extent in buffer.shape)


def read(func: tirx.PrimFunc) -> Program | None:
    """Return ``func`` as comprehensions, or None if it has another form."""
    root = func.body
    if not (isinstance(root, s_tir.SBlockRealize) and _is_static(func.params)):
        return None
    body = root.block.body
    nests = list(body.seq) if isinstance(body, tirx.SeqStmt) else [body]
    try:
        stages = tuple(_stage(nest) for nest in nests)
        _check_order(stages, root.block.alloc_buffers, func.params)
    except _UnreadableError:
        return None
    return Program(params=tuple(func.params), stages=stages)


def _require(holds: bool) -> None:
    if not holds:
        raise _UnreadableError


def _is_static(params: Sequence[tirx.Var]) -> bool:
    return all(
        isinstance(param.ty, tirx.BufferType)
        and all(isinstance(extent, tirx.IntImm) for extent in param.shape)
        for param in params
    )


def _stage(nest: tirx.Stmt) -> Stage:
    realize, extents = _unwrap(nest)
    block = realize.block
    _require(not block.alloc_buffers and not block.match_buffers)
    _require(isinstance(realize.predicate, tirx.IntImm) and bool(realize.predicate.value))
    unit: dict[tirx.Var, Expr] = {}
    spatial: list[Axis] = []
    reduce: list[Axis] = []
    for iter_var, value in zip(block.iter_vars, realize.iter_values, strict=True):
        extent = extents.get(value) if isinstance(value, tirx.Var) else _extent_1(iter_var)
        if extent is None or iter_var.iter_type not in _AXES:
            raise _UnreadableError
        if extent == 1:
            unit[iter_var.var] = tirx.const(0, iter_var.var.ty.dtype)
        else:
            axis = Axis(var=iter_var.var, extent=extent)
            (spatial if iter_var.iter_type == tirx.IterVar.DataPar else reduce).append(axis)
    stores, bound = _stores(block.body)
    return _from_stores(block, stores, bound, unit, tuple(spatial), tuple(reduce))


_AXES = (tirx.IterVar.DataPar, tirx.IterVar.CommReduce)


def _extent_1(iter_var: tirx.IterVar) -> int | None:
    """Return 1 for the axis that a block of rank 0 is given."""
    extent = iter_var.dom.extent
    return 1 if isinstance(extent, tirx.IntImm) and extent.value == 1 else None


def _unwrap(nest: tirx.Stmt) -> tuple[s_tir.SBlockRealize, dict[tirx.Var, int]]:
    """Return the block within perfectly nested loops, and the extent of each loop."""
    extents: dict[tirx.Var, int] = {}
    while isinstance(nest, tirx.For):
        _require(isinstance(nest.extent, tirx.IntImm) and nest.kind == tirx.ForKind.SERIAL)
        _require(isinstance(nest.min, tirx.IntImm) and nest.min.value == 0)
        extents[nest.loop_var] = nest.extent.value
        nest = nest.body
    _require(isinstance(nest, s_tir.SBlockRealize))
    return nest, extents


def _stores(body: tirx.Stmt) -> tuple[list[tirx.BufferStore], dict[tirx.Var, Expr]]:
    """Return the stores of a block, and the variables that its statements bind."""
    stores: list[tirx.BufferStore] = []
    bound: dict[tirx.Var, Expr] = {}
    for stmt in list(body.seq) if isinstance(body, tirx.SeqStmt) else [body]:
        if isinstance(stmt, tirx.Bind):
            bound[stmt.var] = substitute(stmt.value, bound)
        else:
            _require(isinstance(stmt, tirx.BufferStore))
            stores.append(stmt)
    return stores, bound


def _from_stores(
    block: s_tir.SBlock,
    stores: list[tirx.BufferStore],
    bound: dict[tirx.Var, Expr],
    unit: dict[tirx.Var, Expr],
    spatial: tuple[Axis, ...],
    reduce: tuple[Axis, ...],
) -> Stage:
    buffers = tuple(store.buffer for store in stores)
    partials = tuple(tirx.Var("partial", buffer.dtype) for buffer in buffers)
    known = analyzer((*spatial, *reduce))

    def clean(value: Expr) -> Expr:
        value = substitute(substitute(value, bound), unit)
        return _simplify_indices(_with_partials(value, buffers, partials), known)

    start: tuple[Expr, ...] = ()
    if block.init is not None:
        first, names = _stores(block.init)
        _require([store.buffer for store in first] == list(buffers))
        start = tuple(substitute(substitute(store.value, names), unit) for store in first)
    elif reduce:
        raise _UnreadableError
    stage = Stage(
        buffers=buffers,
        spatial=spatial,
        reduce=reduce,
        start=start,
        partials=partials,
        values=tuple(clean(store.value) for store in stores),
    )
    _check_writes(stage, stores, unit)
    return stage


def _check_writes(stage: Stage, stores: list[tirx.BufferStore], unit: dict[tirx.Var, Expr]) -> None:
    """Require that each store writes the whole of its buffer, in the axes' order."""
    extents = [axis.extent for axis in stage.spatial]
    for store in stores:
        _require([extent for extent in shape(store.buffer) if extent != 1] == extents)
        _require(shape(store.buffer) == shape(stage.buffers[0]))
        written = [substitute(index, unit) for index in store.indices]
        for index, wanted in zip(written, stage.indices, strict=True):
            _require(tvm_ffi.structural_equal(index, wanted, map_free_vars=False))
    _require(len(stage.buffers) == 1 or bool(stage.start))
    read_vars = frozenset().union(*(variables(start) for start in stage.start), frozenset())
    _require(not read_vars & {axis.var for axis in stage.reduce})


def _with_partials(
    value: Expr, buffers: tuple[tirx.Buffer, ...], partials: tuple[tirx.Var, ...]
) -> Expr:
    """Replace what a reduction reads of its own buffers by the variables of its partials."""

    def replace(load: TensorLoad) -> Expr:
        return partials[buffers.index(load.source)] if load.source in buffers else load

    return tvm_ffi.structural_map(value, (TensorLoad, replace))


def _simplify_indices(value: Expr, known: Analyzer) -> Expr:
    """Return ``value`` with the loads' indices simplified: reshapes are divisions until then."""

    def simplify(load: TensorLoad) -> Expr:
        return tirx.BufferLoad(load.source, [known.simplify(index) for index in load.indices])

    return tvm_ffi.structural_map(value, (TensorLoad, simplify))


def _check_order(
    stages: tuple[Stage, ...], local: Sequence[tirx.Buffer], params: Sequence[tirx.Buffer]
) -> None:
    """Require that each buffer is written once, and before it is read."""
    written: set[tirx.Buffer] = set()
    for stage in stages:
        for value in (*stage.values, *stage.start):
            for load in loads(value):
                _require(load.source in written or load.source in params)
        _require(not written.intersection(stage.buffers))
        written.update(stage.buffers)
    _require(written.issuperset(local))
