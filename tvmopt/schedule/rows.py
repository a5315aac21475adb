"""Emit a group that has loops inside its shared ones.

The shared loops are the outer ones. If the last of them is contiguous in every access, it is cut
into tiles, and a tile is the innermost loop of every stage: softmax over the channels of an NCHW
tensor runs 32 pixels at a time. Otherwise each stage has its own innermost loop: softmax over the
last axis runs row by row.

Source: none; derived here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np
import tvm_ffi
from tvm import tirx
from tvm.ir import Expr, TensorLoad
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.schedule import reduction
from tvmopt.schedule.expressions import Axis, loads, variables
from tvmopt.schedule.loops import Values, cycles, index, sweep, tasks_for
from tvmopt.schedule.nests import Nest, merge_own
from tvmopt.targets.description import CpuTarget


def item_bytes(dtype: str) -> int:
    """Return the bytes of one element."""
    return 1 if str(dtype) == "bool" else np.dtype(str(dtype)).itemsize


def emit(
    shared: Sequence[Axis], nests: Sequence[Nest], local: Sequence[tirx.Buffer], target: CpuTarget
) -> int:
    """Emit ``nests`` within loops over ``shared``.

    Args:
        shared: The common axes.
        nests: The stages, in order.
        local: Buffers of one round, to be allocated in each task.
        target: The machine.

    Returns:
        The bytes of workspace that one task holds.
    """
    width = target.lanes(32) * reduction.TILE_VECTORS
    if shared and all(reduction.unit_stride(nest, shared[-1]) for nest in nests):
        return _emit_tiles(shared, nests, local, width, target)
    return _emit_rounds(shared, nests, local, 1, target)


def _emit_tiles(
    shared: Sequence[Axis],
    nests: Sequence[Nest],
    local: Sequence[tirx.Buffer],
    width: int,
    target: CpuTarget,
) -> int:
    """Emit the shared loops with the last one cut into tiles, a shorter one last."""
    *outer, inner = shared
    count, left = divmod(inner.extent, width)
    scratch = 0
    for tiles, size, begin in ((count, width, 0), (1, left, count * width)):
        if tiles and size:
            tile = Axis(var=tirx.Var("tile", "int64"), extent=tiles)
            first = tile.var * size + begin
            axes = [*outer, tile] if tiles > 1 else outer
            if tiles == 1:
                first = index(begin)
            cut = [_cut(nest, inner, first, size, local) for nest in nests]
            scratch = max(scratch, _emit_rounds(axes, cut, local, size, target))
    return scratch


def _cut(nest: Nest, inner: Axis, first: Expr, size: int, local: Sequence[tirx.Buffer]) -> Nest:
    """Return the nest for one tile of ``inner``, from ``first``, which it has as an axis."""
    lane = Axis(var=tirx.Var("lane", "int64"), extent=size)

    def widen(load: TensorLoad) -> Expr:
        if load.source not in local:
            return load
        return tirx.BufferLoad(load.source, [load.indices[0] * size + lane.var])

    nest = nest.substitute({inner.var: first + lane.var})
    targets = tuple(
        (buffer, offset * size + lane.var if buffer in local else offset)
        for buffer, offset in nest.targets
    )
    nest = replace(
        nest.map(lambda value: tvm_ffi.structural_map(value, (TensorLoad, widen))),
        targets=targets,
    )
    return replace(nest, spatial=(*nest.spatial, lane))


def _multiply_by_reciprocals(nest: Nest, local: Sequence[tirx.Buffer]) -> Nest:
    """Return the nest with divisions by what is the same all along its innermost loop replaced.

    Only by what the group itself reduced (the sum of a softmax), which is rounded anyway: this
    rounds once more. LLVM then divides once, outside the loop.
    """
    if nest.start or not nest.spatial:
        return nest
    inner = nest.spatial[-1].var
    named = frozenset(var for var, _ in nest.bindings)

    def rewrite(node: tirx.Div) -> Expr:
        reads = loads(node.b)
        fixed = not variables(node.b) & (named | {inner})
        own = bool(reads) and all(load.source in local for load in reads)
        if str(node.ty.dtype) != "float32" or not (fixed and own):
            return node
        return node.a * (tirx.const(1.0, "float32") / node.b)

    return nest.map(lambda value: tvm_ffi.structural_map(value, (tirx.Div, rewrite)))


def _emit_rounds(
    axes: Sequence[Axis],
    nests: Sequence[Nest],
    local: Sequence[tirx.Buffer],
    width: int,
    target: CpuTarget,
) -> int:
    nests = [_multiply_by_reciprocals(merge_own(nest), local) for nest in nests]
    rounds = prod(axis.extent for axis in axes)
    tasks = tasks_for(sum(cycles(nest, rounds, target) for nest in nests), rounds, target)
    allocated: dict[tirx.Var, Expr] = {}

    def prepare() -> None:
        for buffer in local:
            size = int(buffer.shape[0]) * width
            allocated[buffer] = T.alloc_buffer((size,), buffer.dtype)

    def round_(values: Values) -> None:
        for nest in nests:
            reduction.emit(nest, {**values, **allocated}, target)

    sweep(axes, tasks, round_, prepare)
    return sum(int(buffer.shape[0]) * width * item_bytes(buffer.dtype) for buffer in local)
