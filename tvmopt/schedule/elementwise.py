"""Emit stages in which each output element is computed for itself.

The innermost loop is left serial: over contiguous memory LLVM vectorizes it, remainder included,
as well as by hand (measured on AVX2). So what matters is what stands in it. Conditions on an axis
(concatenation, padding) are removed by cutting the axis where they change; where an input is
contiguous along another axis than the output (a transpose), both are walked in small tiles, so
that every cache line is read and written once.

Source: none; derived here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from math import prod

import tvm_ffi
from tvm import tirx
from tvm.ir import Expr
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.schedule import transpose
from tvmopt.schedule.expressions import Axis, analyzer, linear, substitute
from tvmopt.schedule.loops import (
    Values,
    allocate_cells,
    cycles,
    index,
    name_values,
    sweep,
    tasks_for,
)
from tvmopt.schedule.nests import Nest, merge
from tvmopt.targets.description import CpuTarget

MOST_CELLS = 32  # parts that one stage may be cut into; beyond, conditions stay in the loop
TRANSPOSE_TILE = 16  # 16 floats are a cache line of 64 bytes, on every CPU in the catalogue
CHUNK = 4096  # elements of an innermost loop that threads share out; a multiple of every width


@dataclass(frozen=True, slots=True)
class _Cell:
    axes: tuple[Axis, ...]
    nests: tuple[Nest, ...]


def emit(axes: Sequence[Axis], nests: Sequence[Nest], target: CpuTarget) -> None:
    """Emit nests without axes of their own over the common ``axes``."""
    for cell in _cells(tuple(axes), tuple(nests)):
        merged, replaced = merge(cell.axes, cell.nests)
        _emit_cell(_Cell(merged, tuple(n.substitute(replaced) for n in cell.nests)), target)


def _emit_cell(cell: _Cell, target: CpuTarget) -> None:
    work = sum(cycles(nest, prod(a.extent for a in cell.axes), target) for nest in cell.nests)
    if not cell.axes:
        _round(cell.nests, {})
        return
    across = _transposed(cell)
    if across is not None:
        _tiled(cell, across, work, target)
        return
    *outer, inner = cell.axes
    rows = prod(axis.extent for axis in outer)
    tasks = tasks_for(work, rows, target)
    if tasks_for(work, rows * -(-inner.extent // CHUNK), target) > tasks:
        _chunked(cell, work, target)
        return

    def row(values: Values) -> None:
        with T.serial(index(inner.extent)) as step:
            _round(cell.nests, {**values, inner.var: step})

    sweep(outer, tasks, row)


def _chunked(cell: _Cell, work: float, target: CpuTarget) -> None:
    """Emit a cell of few, long rows: the innermost axis is shared out as well."""
    *outer, inner = cell.axes
    chunk = Axis(var=tirx.Var("chunk", "int64"), extent=-(-inner.extent // CHUNK))
    axes = [*outer, chunk]

    def part(values: Values) -> None:
        first = T.Bind(values[chunk.var] * CHUNK)
        with T.serial(tirx.min(index(CHUNK), inner.extent - first)) as step:
            _round(cell.nests, {**values, inner.var: first + step})

    sweep(axes, tasks_for(work, prod(a.extent for a in axes), target), part)


def _round(nests: Sequence[Nest], values: Values) -> None:
    """Emit one element of each nest."""
    for nest in nests:
        known = name_values(nest.bindings, values, allocate_cells(nest, 1), index(0))
        for value, (buffer, offset) in zip(nest.values, nest.targets, strict=True):
            T.buffer_store(buffer, substitute(value, known), [substitute(offset, known)])


def _transposed(cell: _Cell) -> Axis | None:
    """Return the axis along which an input is contiguous while the innermost one strides it."""
    *outer, inner = cell.axes
    for nest in cell.nests:
        for form in nest.access_forms():
            stride = form.stride(inner.var)
            if stride is None or stride in (0, 1):
                continue
            for axis in outer:
                if form.stride(axis.var) == 1 and axis.extent > 1:
                    return axis
    return None


def _tiled(cell: _Cell, across: Axis, work: float, target: CpuTarget) -> None:
    """Emit a cell in tiles of ``across`` and the innermost axis."""
    *outer, inner = cell.axes
    rest = [axis for axis in outer if axis is not across]
    lanes = target.lanes(transpose.WIDTH_BITS)
    if transpose.is_transpose(cell.nests, across, inner, lanes):
        _turned(cell, rest, (across, inner), work, target)
        return
    tiles = [
        Axis(var=tirx.Var("tile", "int64"), extent=-(-axis.extent // TRANSPOSE_TILE))
        for axis in (across, inner)
    ]
    axes = [*rest, *tiles]

    def tile(values: Values) -> None:
        first = [T.Bind(values[t.var] * TRANSPOSE_TILE) for t in tiles]
        counts = [
            index(TRANSPOSE_TILE)
            if axis.extent % TRANSPOSE_TILE == 0
            else tirx.min(index(TRANSPOSE_TILE), axis.extent - start)
            for axis, start in zip((across, inner), first, strict=True)
        ]
        with T.serial(counts[0]) as i, T.serial(counts[1]) as j:
            _round(cell.nests, {**values, across.var: first[0] + i, inner.var: first[1] + j})

    sweep(axes, tasks_for(work, prod(axis.extent for axis in axes), target), tile)


def _turned(
    cell: _Cell, rest: list[Axis], turned: tuple[Axis, Axis], work: float, target: CpuTarget
) -> None:
    """Emit a cell that is a copy in blocks of whole registers; the last ones overlap others."""
    lanes = target.lanes(transpose.WIDTH_BITS)
    edges = [max(TRANSPOSE_TILE, lanes) if a.extent >= TRANSPOSE_TILE else lanes for a in turned]
    tiles = [
        Axis(var=tirx.Var("tile", "int64"), extent=-(-axis.extent // edge))
        for axis, edge in zip(turned, edges, strict=True)
    ]
    axes = [*rest, *tiles]

    def tile(values: Values) -> None:
        first = [
            T.Bind(tirx.min(values[t.var] * edge, index(axis.extent - edge)))
            for t, axis, edge in zip(tiles, turned, edges, strict=True)
        ]
        with T.serial(index(edges[0] // lanes)) as i, T.serial(index(edges[1] // lanes)) as j:
            places = (T.Bind(first[0] + i * lanes), T.Bind(first[1] + j * lanes))
            transpose.emit_block(cell.nests[0], *turned, values, places, lanes)

    sweep(axes, tasks_for(work, prod(axis.extent for axis in axes), target), tile)


def _cells(axes: tuple[Axis, ...], nests: tuple[Nest, ...]) -> list[_Cell]:
    """Cut the axes where a condition changes, and drop the conditions that a part decides."""
    cuts = {axis.var: {0, axis.extent} for axis in axes}
    for nest in nests:
        for value in nest.expressions():
            _find_cuts(value, axes, cuts)
    parts = [list(pairwise(sorted(cuts[axis.var]))) for axis in axes]
    count = prod(len(part) for part in parts)
    if count == 1 or count > MOST_CELLS:
        return [_Cell(axes, nests)]
    return [_cell(axes, nests, ranges) for ranges in product(*parts)]


def _cell(
    axes: tuple[Axis, ...], nests: tuple[Nest, ...], ranges: Sequence[tuple[int, int]]
) -> _Cell:
    moved = {
        axis.var: axis.var + low if high - low > 1 else index(low)
        for axis, (low, high) in zip(axes, ranges, strict=True)
    }
    left = tuple(
        replace(axis, extent=high - low)
        for axis, (low, high) in zip(axes, ranges, strict=True)
        if high - low > 1
    )
    known = analyzer(left)
    return _Cell(left, tuple(nest.substitute(moved).map(known.simplify) for nest in nests))


def _find_cuts(value: Expr, axes: tuple[Axis, ...], cuts: dict[tirx.Var, set[int]]) -> None:
    """Add to ``cuts`` where comparisons of one axis with a constant change their outcome."""
    extents = {axis.var: axis.extent for axis in axes}

    def visit(node: Expr) -> None:
        if str(node.a.ty.dtype) not in ("int32", "int64"):
            return
        form = linear(node.a - node.b)
        if form.opaque or len(form.coefficients) != 1:
            return
        ((var, factor),) = form.coefficients.items()
        if var not in extents or abs(factor) != 1:
            return
        # At the step where factor * var + constant is 0 the two sides are equal.
        equal = -form.constant * factor
        for cut in (equal, equal + 1) if _changes_twice(node) else (_change(node, factor, equal),):
            if 0 < cut < extents[var]:
                cuts[var].add(cut)

    comparisons = (tirx.LT, tirx.LE, tirx.GT, tirx.GE, tirx.EQ, tirx.NE)
    tvm_ffi.structural_walk(value, (comparisons, visit))


def _changes_twice(node: Expr) -> bool:
    return isinstance(node, tirx.EQ | tirx.NE)


def _change(node: Expr, factor: int, equal: int) -> int:
    """Return the first step at which a comparison's outcome differs from that of step 0."""
    with_equal_above = isinstance(node, tirx.LT | tirx.GE) == (factor == 1)
    return equal if with_equal_above else equal + 1
