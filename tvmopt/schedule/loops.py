"""Emit the outer loops, on one thread or on several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from math import prod

import tvm_ffi
from tvm import tirx
from tvm.ir import Call, Expr
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.schedule.expressions import Axis, loads, substitute
from tvmopt.schedule.nests import Nest
from tvmopt.targets.description import CpuTarget

# Waking a parked thread takes 2 to 5 us, some 10,000 cycles; work below twice that stays serial.
PARALLEL_CYCLES = 20_000

# Tasks for each core, so that one core that falls behind does not hold up the rest.
TASKS_PER_CORE = 4

_ARITHMETIC = (
    tirx.Add,
    tirx.Sub,
    tirx.Mul,
    tirx.Div,
    tirx.Max,
    tirx.Min,
    tirx.Select,
    Call,
)

Values = Mapping[tirx.Var, Expr]


def cycles(nest: Nest, rounds: int, target: CpuTarget) -> float:
    """Estimate the cycles of ``rounds`` rounds of a nest, on the safe side for threads.

    Two vector operations start in each cycle; loads and the store count as one each.
    """
    expressions = nest.expressions()
    operations = sum(map(_operations, expressions))
    memory = 1 + sum(len(loads(value)) for value in expressions)
    return rounds * nest.steps * (operations + memory) / (2 * target.lanes(32))


def _operations(value: Expr) -> int:
    """Return the arithmetic operations of an expression, index arithmetic included."""
    found: list[Expr] = []
    tvm_ffi.structural_walk(value, (_ARITHMETIC, found.append))
    return len(found) + 3 * sum(isinstance(node, tirx.Div) for node in found)  # 4 cycles or more


def tasks_for(work_cycles: float, rounds: int, target: CpuTarget) -> int:
    """Return into how many tasks ``rounds`` rounds are cut; 1 where threads do not pay."""
    if work_cycles < PARALLEL_CYCLES or target.cores == 1:
        return 1
    return min(rounds, TASKS_PER_CORE * target.cores)


def sweep(
    axes: Sequence[Axis],
    tasks: int,
    body: Callable[[Values], None],
    prepare: Callable[[], None] | None = None,
) -> None:
    """Emit loops over ``axes``, and within them ``body``, given the value of each variable.

    Args:
        axes: The loops, outermost first.
        tasks: Into how many parallel tasks they are cut; 1 leaves them serial.
        body: Emits one round.
        prepare: Emits what each task needs once, such as its workspace.
    """
    rounds = prod(axis.extent for axis in axes)
    if tasks <= 1:
        if prepare is not None:
            prepare()
        _serial(axes, body)
        return
    each = -(-rounds // tasks)
    with T.parallel(index(-(-rounds // each))) as task:
        if prepare is not None:
            prepare()
        first = T.Bind(task * each)
        count = tirx.min(index(each), rounds - first) if rounds % each else index(each)
        with T.serial(count) as step:
            body(_decode(axes, T.Bind(first + step)))


def needs_cell(value: Expr) -> bool:
    """Say whether a named value must be hidden from TVM's simplifier.

    It derives bounds for every T.max, T.min and T.select, through the names that stand in them, and
    takes exponential time for a chain of such values (mish: 20 s). A load ends the chain; LLVM
    keeps the memory in a register.
    """
    found: list[Expr] = []
    tvm_ffi.structural_walk(value, ((tirx.Max, tirx.Min, tirx.Select), found.append))
    return bool(found) and str(value.ty.dtype).startswith("float")


def name_values(
    bindings: Sequence[tuple[tirx.Var, Expr]],
    values: Values,
    cells: Mapping[tirx.Var, tirx.Buffer],
    lane: Expr,
) -> dict[tirx.Var, Expr]:
    """Emit names for ``bindings``; return what each stands for, and ``values``, together.

    Args:
        bindings: Names and their values, each in terms of earlier names.
        values: What the other variables stand for.
        cells: Memory for those values that need it, of as many elements as there are lanes.
        lane: Which element of the memory is this lane's.
    """
    known = dict(values)
    for var, value in bindings:
        value = substitute(value, known)
        if var in cells:
            T.buffer_store(cells[var], value, [lane])
            known[var] = T.Bind(cells[var][lane])
        else:
            known[var] = name_value(value)
    return known


def name_value(value: Expr) -> Expr:
    """Emit a name for ``value``, unless TVM's bounds analysis fails on it.

    Of an integer that is cast from a vector of conditions it tries to make a scalar (TVM 0.27).
    """
    casts: list[tirx.Cast] = []
    tvm_ffi.structural_walk(value, (tirx.Cast, casts.append))
    counted = any(str(cast.value.ty.dtype) == "bool" for cast in casts)
    return value if counted and not str(value.ty.dtype).startswith("float") else T.Bind(value)


def allocate_cells(nest: Nest, lanes: int) -> dict[tirx.Var, tirx.Buffer]:
    """Emit the memory that ``name_values`` needs for a nest's bindings."""
    return {
        var: T.alloc_buffer((lanes,), str(value.ty.dtype))
        for var, value in nest.bindings
        if needs_cell(value)
    }


def index(value: int) -> tirx.IntImm:
    """Return a constant of the type that loops and offsets have here."""
    return tirx.IntImm("int64", value)


def _serial(axes: Sequence[Axis], body: Callable[[Values], None]) -> None:
    with ExitStack() as stack:
        body({axis.var: stack.enter_context(T.serial(index(axis.extent))) for axis in axes})


def _decode(axes: Sequence[Axis], number: Expr) -> Values:
    """Return the value of each axis in round ``number``, counted with the last axis fastest."""
    values: dict[tirx.Var, Expr] = {}
    for axis in reversed(axes):
        last = axis is axes[0]
        values[axis.var] = number if last else T.Bind(tirx.floormod(number, axis.extent))
        if not last:
            number = T.Bind(tirx.floordiv(number, axis.extent))
    return values
