"""What a scheduled program will cost, in cycles of one core.

Arithmetic is that of the innermost loop: what does not change along it is computed outside of it,
and where a load lies costs nothing. Memory is what the parameters hold.

Source: none; derived here, with the figures fitted on Zen 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import tvm_ffi
from tvm import tirx
from tvm.ir import Call, Expr, TensorLoad

from tvmopt.kernels import cost
from tvmopt.schedule import transpose
from tvmopt.schedule.expressions import Axis, flat, linear, loads, structural_key, variables
from tvmopt.schedule.nests import Body
from tvmopt.schedule.stages import Program, shape
from tvmopt.targets.description import CpuTarget

ISSUED = 2  # vector operations that start in a cycle; loads and stores are as many again
SCATTERED_CYCLES = 1  # a load of one element where neighbours are not read by the next lanes
TURNED_CYCLES = 0.4  # an element of a transpose, block by block
DIVISION = 4  # operations that a division stands for

_ARITHMETIC = (
    *(tirx.Add, tirx.Sub, tirx.Mul, tirx.Div, tirx.Max, tirx.Min, tirx.Select),
    Call,
)


def predict_cycles(
    program: Program, bodies: Sequence[Body], inplace: Sequence[int], target: CpuTarget
) -> float:
    """Return the predicted cycles of a call: arithmetic of all stages, or memory.

    Args:
        program: The program.
        bodies: Its stored stages.
        inplace: Numbers of the parameters whose place the output mostly takes over.
        target: The machine.
    """
    work = sum(_work(body, target) for body in bodies)
    moved = sum(_moved(param, program, bodies, target) for param in program.params)
    if inplace:
        moved -= _bytes(program.outputs[0])  # written where it was read
    return cost.CALL_CYCLES + max(work, cost.stream_cycles(moved, target))


def _bytes(param: tirx.Buffer) -> int:
    dtype = str(param.dtype)
    return prod(shape(param)) * (1 if dtype == "bool" else np.dtype(dtype).itemsize)


def _moved(param: tirx.Buffer, program: Program, bodies: Sequence[Body], target: CpuTarget) -> int:
    """Return the bytes of a parameter that are written or read; of a table, those looked up.

    What level 2 does not hold is read before it is written, and so moves twice.
    """
    size = _bytes(param)
    if param in program.outputs:
        return 2 * size if size > target.l2_bytes else size
    reads = sum(
        body.stage.steps * sum(load.source == param for load in body.reads) for body in bodies
    )
    return min(size, reads * size // max(prod(shape(param)), 1))


def _work(body: Body, target: CpuTarget) -> float:
    """Return the cycles of a stage's arithmetic, loads and stores in level 1."""
    stage = body.stage
    axis = _innermost(body)
    if axis is None:
        return 0.0
    if _is_turned(body, axis, target):
        return stage.steps * TURNED_CYCLES
    varying = {axis.var, *stage.partials}
    named: dict[tirx.Var, frozenset[tirx.Var]] = {}
    live: list[Expr] = []
    for var, value in body.bindings:
        reads = variables(value)
        named[var] = reads.union(*(named.get(read, frozenset()) for read in reads))
        if reads & varying:
            varying.add(var)
            live.append(value)
    live += body.values
    # What is read twice at one place is loaded once.
    places = {
        (load.source, structural_key(list(load.indices))): load
        for value in live
        for load in loads(value)
    }
    strides = [
        linear(flat(list(load.indices), shape(load.source)), named).stride(axis.var)
        for load in places.values()
    ]
    scattered = sum(stride not in (0, 1) for stride in strides)
    products = frozenset(var for var, value in body.bindings if isinstance(value, tirx.Mul))
    operations = sum(_operations(value, products) for value in live)
    vectors = operations + strides.count(1) + (not stage.start)
    each = vectors / (ISSUED * target.lanes(32)) + scattered * SCATTERED_CYCLES
    return stage.steps * each


def _is_turned(body: Body, axis: Axis, target: CpuTarget) -> bool:
    """Say whether a stage is a transpose as ``transpose.is_transpose`` takes them."""
    lanes = target.lanes(transpose.WIDTH_BITS)
    if body.bindings or len(body.values) != 1 or not isinstance(body.values[0], TensorLoad):
        return False
    (load,) = body.values
    width = int(tirx.const(0, str(load.source.dtype)).ty.dtype.bits)
    form = linear(flat(list(load.indices), shape(load.source)))
    runs = [other for other in body.stage.spatial if form.stride(other.var) == 1]
    return (
        width == transpose.WIDTH_BITS
        and form.stride(axis.var) not in (0, 1)
        and axis.extent >= lanes
        and any(other.extent >= lanes for other in runs)
    )


def _innermost(body: Body) -> Axis | None:
    """Return the axis along which a stage is vectorized; None for a single element."""
    stage = body.stage
    if stage.reduce and (not stage.spatial or _contiguous(body, stage.reduce[-1])):
        return stage.reduce[-1]
    return stage.spatial[-1] if stage.spatial else None


def _contiguous(body: Body, axis: Axis) -> bool:
    """Say whether some load moves by one element along ``axis``, and none by more."""
    strides = [
        linear(flat(list(load.indices), shape(load.source))).stride(axis.var) for load in body.reads
    ]
    return 1 in strides and all(stride in (0, 1) for stride in strides)


def _operations(value: Expr, products: frozenset[tirx.Var]) -> int:
    """Return the arithmetic operations of an expression, those of its loads' places left out.

    A product and the sum it goes into are one.

    Args:
        value: The expression.
        products: Names of products.
    """
    zero = tirx.const(0, "int64")
    bare = tvm_ffi.structural_mutate(value, (TensorLoad, lambda _load, _mutator: zero))
    found: list[Expr] = []
    tvm_ffi.structural_walk(bare, (_ARITHMETIC, found.append))

    def is_product(node: Expr) -> bool:
        return isinstance(node, tirx.Mul) or (isinstance(node, tirx.Var) and node in products)

    divisions = sum(isinstance(node, tirx.Div) for node in found)
    fused = sum(
        isinstance(node, tirx.Add | tirx.Sub) and (is_product(node.a) or is_product(node.b))
        for node in found
    )
    return len(found) - fused + (DIVISION - 1) * divisions
