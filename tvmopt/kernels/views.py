"""Joining tensors and cutting one.

The kernels only move bytes, and say so ("tvmopt.view"): codegen plans the memory so that most of
them need not run at all. Where the bytes of each tensor lie one after another it copies what is
left by itself. Tensors joined or cut along their rows (rows.py) lie within the wider one as far as
parameters say so; what a join's other parameters hold is copied by the kernel.

Source: none; derived here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.kernels import cost
from tvmopt.kernels.blocks import worth_threads
from tvmopt.kernels.rows import Rows, pitch_of
from tvmopt.kernels.vector import Expr, Vector, bind, loop, parameters, prim_func
from tvmopt.targets.description import CpuTarget

Shape = tuple[int, ...]


def run_before(shape: Shape, axis: int) -> bool:
    """Say whether what is joined or cut along ``axis`` of ``shape`` is one run of memory."""
    return prod(shape[:axis]) == 1


def run_offset(shape: Shape, begins: Sequence[int], out: Shape) -> int | None:
    """Return where a box of a dense tensor begins, elements, if it is one run of memory.

    Args:
        shape: Of the tensor.
        begins: The box's first place along each axis.
        out: The box's extents.
    """
    moving = [axis for axis, extent in enumerate(out) if extent != 1]
    first = moving[0] if moving else len(shape)
    if any(out[axis] != shape[axis] for axis in range(first + 1, len(shape))):
        return None
    return sum(begin * prod(shape[axis + 1 :]) for axis, begin in enumerate(begins))


def join(shapes: Sequence[Shape], out: Shape, dtype: str, name: str) -> tirx.PrimFunc:
    """Return ``name(x0, x1, ..., y)``: y holds the elements of all x, one x after another.

    Args:
        shapes: Of the inputs.
        out: Of the output, with as many elements as all of them.
        dtype: Of all.
        name: The kernel's name.
    """
    assert sum(map(prod, shapes)) == prod(out), f"{shapes} are not as many elements as {out}"

    def body() -> None:
        tensors = [(f"x{i}", shape, dtype) for i, shape in enumerate(shapes)]
        *inputs, y = parameters(*tensors, ("y", out, dtype))
        first = 0
        for x, shape in zip(inputs, shapes, strict=True):
            _copy(x, 0, y, first, prod(shape))
            first += prod(shape)

    return prim_func(name, body, {"tvmopt.view": "join", "tvmopt.cycles": 0})


def part(shape: Shape, offset: int, out: Shape, dtype: str, name: str) -> tirx.PrimFunc:
    """Return ``name(x, y)``: y holds the elements of x from number ``offset`` on.

    Args:
        shape: Of x.
        offset: The first element.
        out: Of y.
        dtype: Of both.
        name: The kernel's name.
    """
    assert offset + prod(out) <= prod(shape), f"{out} at {offset} is not within {shape}"

    def body() -> None:
        x, y = parameters(("x", shape, dtype), ("y", out, dtype))
        _copy(x, offset, y, 0, prod(out))

    attrs = {"tvmopt.view": "part", "tvmopt.view_offset": offset, "tvmopt.cycles": 0}
    return prim_func(name, body, attrs)


def _copy(x: tirx.Buffer, begin: int, y: tirx.Buffer, goal: int, count: int) -> None:
    with T.serial(count) as i:
        value: Expr = x[begin + i]
        T.buffer_store(y, value, [goal + i])


@dataclass(frozen=True, kw_only=True, slots=True)
class JoinSite:
    """Tensors joined along their rows.

    Attributes:
        count: Rows of each.
        widths: Elements of a row of each tensor, in order.
        dtype: Of all.
        places: Where each tensor's rows lie within the result's; None for one that is copied.
        out_rows: Where the result's own rows lie; None where they follow one another.
    """

    count: int
    widths: tuple[int, ...]
    dtype: str
    places: tuple[Rows | None, ...]
    out_rows: Rows | None = None

    @property
    def copied_bytes(self) -> int:
        """Bytes that the kernel reads and writes."""
        copied = (w for w, rows in zip(self.widths, self.places, strict=True) if rows is None)
        return 2 * self.count * sum(copied) * np.dtype(self.dtype).itemsize


def join_cycles(site: JoinSite, target: CpuTarget) -> float:
    """Return the predicted cycles of one core: of what is copied."""
    if not site.copied_bytes:
        return 0.0
    return cost.CALL_CYCLES + cost.stream_cycles(site.copied_bytes, target)


def join_rows(site: JoinSite, target: CpuTarget, name: str) -> tirx.PrimFunc:
    """Return ``name(x0, x1, ..., y)``: each row of y holds that row of every x, one after another.

    It writes what it copies, and no row that is said to lie in y already.
    """
    width, bits = sum(site.widths), 8 * np.dtype(site.dtype).itemsize

    def body() -> None:
        tensors = [
            (f"x{i}", (site.count, w), site.dtype, rows)
            for i, (w, rows) in enumerate(zip(site.widths, site.places, strict=True))
        ]
        *inputs, y = parameters(*tensors, ("y", (site.count, width), site.dtype, site.out_rows))
        with loop(site.count, parallel=worth_threads(site.copied_bytes)) as row:
            first = 0
            for x, w, rows in zip(inputs, site.widths, site.places, strict=True):
                if rows is None:
                    vector = Vector(min(target.lanes(bits), w), site.dtype)
                    goal = row * pitch_of(site.out_rows, width) + first
                    _copy_row(vector, x, row * w, y, goal, w)
                first += w

    return prim_func(name, body, {"tvmopt.view": "join rows", "tvmopt.macs": 0})


def _copy_row(
    vector: Vector, x: tirx.Buffer, start: Expr, y: tirx.Buffer, goal: Expr, width: int
) -> None:
    """Emit the copy of one row, the last vector overlapping the one before."""
    with T.serial(-(-width // vector.lanes)) as i:
        at = bind(tirx.min(i * vector.lanes, width - vector.lanes))
        vector.store(y, vector.load(x, start + at), goal + at)


@dataclass(frozen=True, kw_only=True, slots=True)
class CutSite:
    """A part of each row of a tensor.

    Attributes:
        count: Rows.
        width: Elements of a row of the tensor.
        first: The part's first element of a row.
        size: Elements of the part.
        dtype: Of both.
        rows: Where the tensor's rows lie; None where they follow one another.
    """

    count: int
    width: int
    first: int
    size: int
    dtype: str
    rows: Rows | None = None


def cut_rows(site: CutSite, place: Rows, name: str) -> tirx.PrimFunc:
    """Return ``name(x, y)``: y is a part of each row of x, and its rows lie in x's.

    Args:
        site: What is cut.
        place: Where the part's rows lie.
        name: The kernel's name.
    """

    def body() -> None:
        x, y = parameters(
            ("x", (site.count, site.width), site.dtype, site.rows),
            ("y", (site.count, site.size), site.dtype, place),
        )
        with T.serial(site.count) as row, T.serial(site.size) as i:
            value: Expr = x[row * pitch_of(site.rows, site.width) + site.first + i]
            T.buffer_store(y, value, [row * place.pitch + i])

    attrs = {"tvmopt.view": "cut rows", "tvmopt.view_offset": site.first, "tvmopt.cycles": 0}
    return prim_func(name, body, attrs)
