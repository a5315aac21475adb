"""Joining tensors and cutting one, where the bytes lie one after another.

Both kernels only move bytes, and say so ("tvmopt.view"): codegen plans the memory so that most of
them need not run at all, and copies what is left by itself.

Source: none; derived here.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.kernels.vector import Expr, parameters, prim_func

LINE_BYTES = 64  # what every kernel may assume of a tensor's place

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
