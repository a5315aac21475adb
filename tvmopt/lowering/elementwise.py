"""Match the elementwise operators behind a site and turn them into the kernel's epilogue."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

import numpy as np
from tvm import relax

from tvmopt import ir
from tvmopt.kernels.epilogue import Epilogue, Operand, Step
from tvmopt.lowering.graph import Graph, Node

BINARY = {
    "relax.add": "add",
    "relax.subtract": "sub",
    "relax.multiply": "mul",
    "relax.divide": "div",
    "relax.maximum": "max",
    "relax.minimum": "min",
}
UNARY = {
    "relax.sigmoid": "sigmoid",
    "relax.tanh": "tanh",
    "relax.exp": "exp",
    "relax.log": "log",
    "relax.erf": "erf",
    "relax.sqrt": "sqrt",
    "relax.nn.gelu": "gelu",
    "relax.nn.gelu_tanh": "gelu_tanh",
}
MAX_STEPS = 12  # a longer chain waits on its own latency more than a second pass over memory costs

Arg = int | float | str  # value number, constant, or "operand i" while the count is not yet known


@dataclass(slots=True)
class _Program:
    """An epilogue under construction: operands keep their place when steps follow."""

    anchor: Node
    planes: bool
    operands: list[tuple[Operand, relax.Expr | np.ndarray]] = field(default_factory=list)
    steps: list[tuple[str, tuple[Arg, ...]]] = field(default_factory=list)
    values: dict[relax.Var, Arg] = field(default_factory=dict)

    def step(self, op: str, *args: Arg) -> Arg:
        """Append a step and return its value."""
        self.steps.append((op, args))
        return f"step {len(self.steps) - 1}"

    def operand(self, kind: Operand, value: relax.Expr | np.ndarray) -> Arg:
        """Append an operand and return its value."""
        self.operands.append((kind, value))
        return f"operand {len(self.operands) - 1}"

    def epilogue(self) -> Epilogue:
        """Return the program with numbered values."""

        def number(arg: Arg) -> int | float:
            if not isinstance(arg, str):
                return arg
            kind, place = arg.split()
            return int(place) + (1 if kind == "operand" else 1 + len(self.operands))

        return Epilogue(
            tuple(kind for kind, _ in self.operands),
            tuple(Step(op, tuple(number(a) for a in args)) for op, args in self.steps),
        )


@dataclass(frozen=True, slots=True)
class Tail:
    """What a site's kernel does besides the site itself.

    Attributes:
        epilogue: The program.
        operands: Its tensors: expressions, or channel constants.
        covered: Numbers of the bindings it stands for, the site's own included.
        result: The binding whose value the kernel gives.
    """

    epilogue: Epilogue
    operands: tuple[relax.Expr | np.ndarray, ...]
    covered: frozenset[int]
    result: Node


def match_tail(graph: Graph, anchor: Node, taken: set[int], *, planes: bool = False) -> Tail:
    """Return the longest run of elementwise bindings behind ``anchor`` that one kernel can do.

    The run grows in the order of the bindings and is cut back to the last place where a single
    value leaves it.

    Args:
        graph: The function.
        anchor: The site's own binding.
        taken: Numbers of bindings that other kernels stand for already.
        planes: Whether the kernel reads operands that follow the two innermost axes alone.
    """
    program = _Program(anchor, planes=planes, values={anchor.var: 0})
    covered = {anchor.index}
    best = Tail(program.epilogue(), (), frozenset(covered), anchor)
    frontier = anchor
    while len(program.steps) < MAX_STEPS:
        node = _next(graph, covered, taken)
        if node is None or not _append(graph, program, node):
            break
        covered.add(node.index)
        frontier = node
        if _leaving(graph, covered) == {frontier.var}:
            operands = tuple(value for _, value in program.operands)
            best = Tail(program.epilogue(), operands, frozenset(covered), frontier)
    return best


def _next(graph: Graph, covered: set[int], taken: set[int]) -> Node | None:
    """Return the first binding that reads a covered value and is not covered itself."""
    readers = {
        user.index
        for index in covered
        for user in graph.users.get(graph.nodes[index].var, [])
        if user.index not in covered
    }
    first = min(readers, default=None)
    return None if first is None or first in taken else graph.nodes[first]


def _leaving(graph: Graph, covered: set[int]) -> set[relax.Var]:
    """Return the covered values that something outside reads."""
    return {
        var
        for var in (graph.nodes[index].var for index in covered)
        if var in graph.kept or any(u.index not in covered for u in graph.users.get(var, []))
    }


def _append(graph: Graph, program: _Program, node: Node) -> bool:
    """Add one binding to the program; say whether it could be done."""
    call, shape = node.value, ir.static_shape(program.anchor.var)
    if not isinstance(call, relax.Call) or ir.dtype(node.var) != "float32":
        return False
    if ir.static_shape(node.var) != shape:
        return False
    if ir.is_call_to(call, *BINARY):
        args = [_operand(graph, program, arg, shape) for arg in call.args]
        if None in args:
            return False
        value = program.step(BINARY[call.op.name], *(arg for arg in args if arg is not None))
    elif ir.is_call_to(call, *UNARY):
        value = program.step(UNARY[call.op.name], program.values[call.args[0]])
    else:
        composed = _compose(program, call)
        if composed is None:
            return False
        value = composed
    program.values[node.var] = value
    return True


def _operand(
    graph: Graph,
    program: _Program,
    arg: relax.Expr,
    shape: tuple[int, ...],
) -> Arg | None:
    """Return the value of an argument of a binary operator; None where a kernel cannot read it."""
    if arg in program.values:
        return program.values[arg]
    if ir.dtype(arg) != "float32":
        return None
    own, array = ir.static_shape(arg), ir.float_constant(arg)
    size = prod(own)
    if array is not None and size == 1:
        return float(array.reshape(()))
    if size == shape[-1] and own[-1:] == shape[-1:]:
        return program.operand(
            Operand.CHANNEL, arg if array is None else np.ascontiguousarray(array).reshape(-1)
        )
    plane = prod(shape[-2:])
    if program.planes and own[-2:] == shape[-2:] and prod(own) == plane != prod(shape):
        return program.operand(Operand.PLANE, arg)
    # A tensor that is made later by a kernel of its own will take this operator instead.
    if own == shape and (graph.born(arg) < program.anchor.index or array is not None):
        return program.operand(Operand.TENSOR, arg)
    return None


def _compose(program: _Program, call: relax.Call) -> Arg | None:
    """Add the steps of an operator that is more than one of them.

    A bound stands first: then a NaN passes, which behind it would become the bound.
    """
    if not call.args or call.args[0] not in program.values:
        return None
    x, step = program.values[call.args[0]], program.step
    if ir.is_call_to(call, "relax.nn.relu"):
        return step("max", 0.0, x)
    if ir.is_call_to(call, "relax.nn.relu6"):
        return step("min", 6.0, step("max", 0.0, x))
    if ir.is_call_to(call, "relax.nn.silu"):
        return step("mul", x, step("sigmoid", x))
    if ir.is_call_to(call, "relax.negative"):
        return step("mul", x, -1.0)
    if ir.is_call_to(call, "relax.clip"):
        low, high = (ir.scalar(bound) for bound in call.args[1:3])
        return step("min", high, step("max", low, x))
    if ir.is_call_to(call, "relax.nn.leakyrelu"):
        return _leaky(program, x, float(call.attrs.alpha))
    if ir.is_call_to(call, "relax.nn.prelu"):
        slopes, shape = ir.float_constant(call.args[1]), ir.static_shape(call)
        innermost = int(call.attrs.axis) % len(shape) == len(shape) - 1
        if slopes is None or not innermost or slopes.size != shape[-1]:
            return None
        flat = np.ascontiguousarray(slopes).reshape(-1)
        return _leaky(program, x, program.operand(Operand.CHANNEL, flat))
    return None


def _leaky(program: _Program, x: Arg, slope: Arg) -> Arg:
    """Add the steps of ``max(0, x) + slope * min(0, x)``."""
    positive = program.step("max", 0.0, x)
    return program.step("add", positive, program.step("mul", program.step("min", 0.0, x), slope))
