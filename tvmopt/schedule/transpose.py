"""Copy a transposed tensor in blocks that are turned in registers.

A block of ``lanes`` x ``lanes`` elements is loaded row by row, turned by log2(lanes) rounds of
shuffles, and stored column by column: whole vectors of memory on both sides, where a plain loop
reads or writes single elements.

Source: J. O. Eklundh, "A fast computer method for matrix transposing", IEEE Transactions on
Computers C-21 (1972): round b exchanges the b x b blocks off the diagonal of every 2b x 2b block.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx
from tvm.ir import Expr, TensorLoad

from tvmopt.kernels.vector import Vector, bind
from tvmopt.schedule.expressions import Axis, linear, substitute
from tvmopt.schedule.loops import Values
from tvmopt.schedule.nests import Nest

WIDTH_BITS = 32  # of an element: what a CPU's shuffles move


def is_transpose(nests: Sequence[Nest], across: Axis, inner: Axis, lanes: int) -> bool:
    """Say whether the nests are one copy that a block can make.

    Args:
        nests: Without axes of their own.
        across: The axis along which the input is contiguous.
        inner: The axis along which the output is.
        lanes: Elements of a register.
    """
    if len(nests) != 1 or nests[0].bindings or len(nests[0].values) != 1:
        return False
    (value,), ((buffer, offset),) = nests[0].values, nests[0].targets
    if not isinstance(value, TensorLoad) or min(across.extent, inner.extent) < lanes:
        return False
    read, written = linear(value.indices[0]), linear(offset)
    known = all(
        form.stride(axis.var) is not None for form in (read, written) for axis in (across, inner)
    )
    narrow = int(tirx.const(0, str(buffer.dtype)).ty.dtype.bits) == WIDTH_BITS
    unit = read.stride(across.var) == written.stride(inner.var) == 1
    return known and narrow and unit and lanes & (lanes - 1) == 0 and lanes > 1


def emit_block(
    nest: Nest, across: Axis, inner: Axis, values: Values, first: tuple[Expr, Expr], lanes: int
) -> None:
    """Emit one block.

    Args:
        nest: A copy.
        across: As ``is_transpose`` takes it.
        inner: See there.
        values: Of the other axes' variables.
        first: Where the block begins along ``across`` and ``inner``.
        lanes: Its edge.
    """
    (value,), ((buffer, offset),) = nest.values, nest.targets
    vector = Vector(lanes, str(buffer.dtype))

    def place(where: Expr, a: int, b: int) -> Expr:
        return substitute(where, {**values, across.var: first[0] + a, inner.var: first[1] + b})

    rows = [
        bind(vector.load(value.source, place(value.indices[0], 0, row))) for row in range(lanes)
    ]
    for column, turned in enumerate(_turned(rows, lanes)):
        vector.store(buffer, turned, place(offset, column, 0))


def _turned(rows: list[Expr], lanes: int) -> list[Expr]:
    """Emit the shuffles that turn a block; return its columns."""
    block = 1
    while block < lanes:
        pairs = [i for i in range(lanes) if not i & block]
        for i in pairs:
            low, high = rows[i], rows[i + block]
            rows[i] = bind(_shuffle(low, high, _places(lanes, block, 0)))
            rows[i + block] = bind(_shuffle(low, high, _places(lanes, block, block)))
        block *= 2
    return rows


def _places(lanes: int, block: int, shift: int) -> list[int]:
    """Return which elements of two rows, one after the other, one row of the next round takes."""
    return [(j & ~block) + shift + (lanes if j & block else 0) for j in range(lanes)]


def _shuffle(a: Expr, b: Expr, places: list[int]) -> Expr:
    return tirx.Shuffle([a, b], [tirx.const(place, "int32") for place in places])
