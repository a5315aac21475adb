"""Emit groups of stages that share outer loops, reductions among them.

One round of the shared loops computes each stage in turn, and keeps what passes between them in
buffers of a round's size. A reduction is vectorized, with its partial results in registers,

* across outputs, if neighbouring outputs read neighbouring elements (a mean over the rows of a
  matrix, a matrix product), in tiles of ``TILE_VECTORS`` vectors; or else
* along its innermost axis, if that is contiguous (a mean over columns, softmax): as many partial
  sums as a tile has lanes, added up in a tree at the end, which errs less than adding in order.

LLVM vectorizes neither by itself, since both reorder floating-point operations.

Source: the partial sums in independent registers are textbook (H. Warren, "Hacker's Delight" has
the tree); the choice is derived here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.schedule.expressions import Axis, substitute, variables
from tvmopt.schedule.loops import Values, allocate_cells, index, name_value, name_values
from tvmopt.schedule.nests import Nest
from tvmopt.targets.description import CpuTarget

TILE_VECTORS = 4  # independent chains, so that an addition's latency of 4 cycles does not show

_COMBINERS = (tirx.Add, tirx.Mul, tirx.Max, tirx.Min)


@dataclass(frozen=True, slots=True)
class _Accumulators:
    """Partial results of every component of a reduction.

    Attributes:
        buffers: One a component, of ``size`` partial results.
        size: How many outputs, or independent parts of one output, are under way.
        lanes: How many of them one vector holds.
        cells: Memory for named values, of one vector each.
    """

    buffers: tuple[tirx.Buffer, ...]
    size: int
    lanes: int
    cells: dict[tirx.Var, tirx.Buffer]


def emit(nest: Nest, values: Values, target: CpuTarget) -> None:
    """Emit a nest within its shared loops, whose variables ``values`` gives."""
    nest = nest.substitute(values)
    if not nest.start:
        _injective(nest)
    elif _unit_stride(nest, nest.spatial) and _wide(nest.spatial[-1], nest, target):
        _across_outputs(nest, target)
    elif _unit_stride(nest, nest.reduce) and _separable(nest):
        _along_reduction(nest, target)
    elif _unit_stride(nest, nest.spatial):
        _across_outputs(nest, target)
    else:
        _scalar(nest)


def lanes(nest: Nest, axis: Axis, target: CpuTarget) -> int:
    """Return how many of the nest's partial results, along ``axis``, fill a SIMD register."""
    if not nest.vectorizes(axis):
        return 1
    bits = max(int(partial.ty.dtype.bits) for partial in nest.partials)
    return target.lanes(max(bits, 8))


def _injective(nest: Nest) -> None:
    with ExitStack() as stack:
        steps = {a.var: stack.enter_context(T.serial(index(a.extent))) for a in nest.spatial}
        known = name_values(nest.bindings, steps, allocate_cells(nest, 1), index(0))
        for value, (buffer, offset) in zip(nest.values, nest.targets, strict=True):
            T.buffer_store(buffer, substitute(value, known), [substitute(offset, known)])


def unit_stride(nest: Nest, axis: Axis) -> bool:
    """Say whether a step of ``axis`` moves every access by one element or not at all."""
    return all(form.stride(axis.var) in (0, 1) for form in nest.access_forms())


def _unit_stride(nest: Nest, axes: Sequence[Axis]) -> bool:
    return bool(axes) and unit_stride(nest, axes[-1])


def _wide(axis: Axis, nest: Nest, target: CpuTarget) -> bool:
    return 1 < lanes(nest, axis, target) <= axis.extent


def _separable(nest: Nest) -> bool:
    """Say whether each component is ``partial (+) term``, the term free of partial results."""
    return all(
        _term(value, partial) is not None
        and not variables(_term(value, partial)) & set(nest.partials)
        for value, partial in zip(nest.values, nest.partials, strict=True)
    ) and not any(set(nest.partials) & variables(value) for _, value in nest.bindings)


def _term(value: Expr, partial: tirx.Var) -> Expr | None:
    if isinstance(value, _COMBINERS):
        if isinstance(value.a, tirx.Var) and value.a.same_as(partial):
            return value.b
        if isinstance(value.b, tirx.Var) and value.b.same_as(partial):
            return value.a
    return None


# -- across outputs ---------------------------------------------------------------------------


def _across_outputs(nest: Nest, target: CpuTarget) -> None:
    *outer, inner = nest.spatial
    width = lanes(nest, inner, target)
    with ExitStack() as stack:
        steps = {a.var: stack.enter_context(T.serial(index(a.extent))) for a in outer}
        nest = nest.substitute(steps)
        done = _tiles(nest, inner, 0, width * TILE_VECTORS, width)
        done = _tiles(nest, inner, done, (inner.extent - done) // width * width, width)
        _tiles(nest, inner, done, inner.extent - done, 1)


def _tiles(nest: Nest, inner: Axis, begin: int, size: int, width: int) -> int:
    """Emit as many tiles of ``size`` outputs as there are from ``begin``; return where they end."""
    count = (inner.extent - begin) // size if size else 0
    if count:
        with T.serial(index(count)) as tile:
            _tile(nest, inner.var, T.Bind(begin + tile * size), size, width)
    return begin + count * size


def _tile(nest: Nest, var: tirx.Var, first: Expr, size: int, width: int) -> None:
    sums = _allocate(nest, size, width)
    _each_lane(size, width, lambda at, _: _start(nest, {var: first + at}, sums, at))
    with ExitStack() as stack:
        steps = {a.var: stack.enter_context(T.serial(index(a.extent))) for a in nest.reduce}
        _each_lane(
            size,
            width,
            lambda at, lane: _accumulate(nest, {**steps, var: first + at}, sums, at, lane),
        )

    def write(at: Expr, _lane: Expr) -> None:
        for buffer, (target, offset) in zip(sums.buffers, nest.targets, strict=True):
            T.buffer_store(target, buffer[at], [substitute(offset, {var: first + at})])

    _each_lane(size, width, write)


def _each_lane(size: int, width: int, body: Callable[[Expr, Expr], None]) -> None:
    """Emit ``body`` for each of ``size`` positions, ``width`` lanes at a time."""
    # Unrolled here: TVM's own unrolling repeats the names that a body binds, and its elimination
    # of common subexpressions then moves uses out of their reach.
    for first in range(0, size, width):
        if width == 1:
            body(index(first), index(0))
        else:
            with T.vectorized(index(width)) as lane:
                body(first + lane, lane)


def _allocate(nest: Nest, size: int, width: int) -> _Accumulators:
    buffers = tuple(T.alloc_buffer((size,), str(partial.ty.dtype)) for partial in nest.partials)
    return _Accumulators(buffers, size, width, allocate_cells(nest, width))


def _start(nest: Nest, values: Values, sums: _Accumulators, at: Expr) -> None:
    for buffer, start in zip(sums.buffers, nest.start, strict=True):
        T.buffer_store(buffer, substitute(start, values), [at])


def _accumulate(nest: Nest, values: Values, sums: _Accumulators, at: Expr, lane: Expr) -> None:
    partials = {
        partial: T.Bind(buffer[at])
        for partial, buffer in zip(nest.partials, sums.buffers, strict=True)
    }
    known = name_values(nest.bindings, {**values, **partials}, sums.cells, lane)
    updated = [name_value(substitute(value, known)) for value in nest.values]
    for buffer, value in zip(sums.buffers, updated, strict=True):
        T.buffer_store(buffer, value, [at])


# -- along the reduction ----------------------------------------------------------------------


def _along_reduction(nest: Nest, target: CpuTarget) -> None:
    *outer, inner = nest.reduce
    width = lanes(nest, inner, target)
    vectors = min(TILE_VECTORS, inner.extent // width)
    if vectors == 0 or width == 1:
        _scalar(nest)
        return
    with ExitStack() as stack:
        steps = {a.var: stack.enter_context(T.serial(index(a.extent))) for a in nest.spatial}
        row = nest.substitute(steps)
        sums = _allocate(row, vectors * width, width)
        _each_lane(sums.size, width, lambda at, _: _identities(row, sums, at))
        rest = _allocate(row, 1, 1)
        _start(row, {}, rest, index(0))
        with ExitStack() as around:
            loops = {a.var: around.enter_context(T.serial(index(a.extent))) for a in outer}
            _row(row.substitute(loops), inner, sums, rest)
        totals = _combine(row, sums, rest)
        for total, (written, offset) in zip(totals, row.targets, strict=True):
            T.buffer_store(written, total, [offset])


def _row(nest: Nest, inner: Axis, sums: _Accumulators, rest: _Accumulators) -> None:
    """Accumulate one run of the innermost axis: whole tiles, whole vectors, then single steps."""
    count, left = divmod(inner.extent, sums.size)

    def step(first: Expr) -> Callable[[Expr, Expr], None]:
        return lambda at, lane: _accumulate(nest, {inner.var: first + at}, sums, at, lane)

    with T.serial(index(count)) as tile:
        _each_lane(sums.size, sums.lanes, step(T.Bind(tile * sums.size)))
    if left // sums.lanes:
        _each_lane(left // sums.lanes * sums.lanes, sums.lanes, step(index(count * sums.size)))
    if left % sums.lanes:
        begin = inner.extent - left % sums.lanes
        with T.serial(index(left % sums.lanes)) as single:
            _accumulate(nest, {inner.var: begin + single}, rest, index(0), index(0))


def _identities(nest: Nest, sums: _Accumulators, at: Expr) -> None:
    for buffer, value, start in zip(sums.buffers, nest.values, nest.start, strict=True):
        T.buffer_store(buffer, _identity(value, start), [at])


def _identity(value: Expr, start: Expr) -> Expr:
    """Return what leaves a combiner's other operand as it is."""
    if isinstance(value, tirx.Add | tirx.Mul):
        return tirx.const(int(isinstance(value, tirx.Mul)), str(value.ty.dtype))
    return start  # the greatest or least of a value and itself is that value


def _combine(nest: Nest, sums: _Accumulators, rest: _Accumulators) -> list[Expr]:
    """Emit the tree that adds up the partial results; return the totals."""
    half = sums.size
    while half % 2 == 0 and half > 2:
        half //= 2
        with T.vectorized(index(half)) as lane:
            for buffer, value in zip(sums.buffers, nest.values, strict=True):
                T.buffer_store(buffer, type(value)(buffer[lane], buffer[lane + half]), [lane])
    totals = []
    for buffer, single, value in zip(sums.buffers, rest.buffers, nest.values, strict=True):
        total = single[0]
        for lane in range(half):
            total = type(value)(total, buffer[lane])
        totals.append(T.Bind(total))
    return totals


# -- one by one -------------------------------------------------------------------------------


def _scalar(nest: Nest) -> None:
    with ExitStack() as stack:
        steps = {a.var: stack.enter_context(T.serial(index(a.extent))) for a in nest.spatial}
        row = replace(nest.substitute(steps), spatial=())
        sums = _allocate(row, 1, 1)
        _start(row, {}, sums, index(0))
        with ExitStack() as inner:
            loops = {a.var: inner.enter_context(T.serial(index(a.extent))) for a in row.reduce}
            _accumulate(row, loops, sums, index(0), index(0))
        for buffer, (written, offset) in zip(sums.buffers, row.targets, strict=True):
            T.buffer_store(written, buffer[0], [offset])
