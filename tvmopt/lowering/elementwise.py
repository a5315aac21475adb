"""Match the elementwise operators behind a site and turn them into the kernel's epilogue."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import numpy as np
from tvm import relax

from tvmopt import forms, ir
from tvmopt.forms import Affine
from tvmopt.kernels.epilogue import Epilogue, Operand
from tvmopt.lowering.graph import Graph, Node
from tvmopt.lowering.program import SUM, Arg, Input, Program

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
STORED = ("uint8", "int8", "int16")  # integers that a kernel can store


@dataclass(slots=True)
class _Growth:
    """What was matched so far.

    Attributes:
        graph: The function.
        anchor: The site's own binding.
        planes: Whether the kernel reads operands that follow the two innermost axes alone.
        ones: Whether it reads operands of one element.
        program: The steps.
        values: The program's value of each covered variable.
    """

    graph: Graph
    anchor: Node
    planes: bool
    ones: bool
    program: Program
    values: dict[relax.Var, Arg]


@dataclass(frozen=True, slots=True)
class Tail:
    """What a site's kernel does besides the site itself.

    Attributes:
        program: The elementwise steps over real numbers.
        covered: Numbers of the bindings it stands for, the site's own included.
        result: The binding whose value the kernel gives.
    """

    program: Program
    covered: frozenset[int]
    result: Node

    @property
    def epilogue(self) -> Epilogue:
        """The program for a kernel whose accumulator is float32."""
        return self.program.epilogue()

    @property
    def operands(self) -> tuple[relax.Expr | np.ndarray, ...]:
        """Its tensors: expressions, or constants."""
        return self.program.tensors


def match_tail(
    graph: Graph,
    anchor: Node,
    taken: set[int],
    *,
    planes: bool = False,
    quantize: bool = True,
    ones: bool = False,
    same: Iterable[relax.Var] = (),
) -> Tail:
    """Return the longest run of elementwise bindings behind ``anchor`` that one kernel can do.

    The run grows in the order of the bindings and is cut back to the last place where a single
    value leaves it.

    Args:
        graph: The function.
        anchor: The site's own binding.
        taken: Numbers of bindings that other kernels stand for already.
        planes: Whether the kernel reads operands that follow the two innermost axes alone.
        quantize: Whether the kernel can store integers.
        ones: Whether the kernel reads operands of one element that are known at run time alone.
        same: Variables that hold the same value as ``anchor``.
    """
    values: dict[relax.Var, Arg] = dict.fromkeys((anchor.var, *same), SUM)
    growth = _Growth(graph, anchor, planes, ones, Program(), values)
    covered = {anchor.index}
    best = Tail(growth.program.copy(), frozenset(covered), anchor)
    while len(growth.program.steps) < MAX_STEPS and growth.program.output is None:
        node = _next(graph, covered, taken)
        if node is None or not (_append(growth, node) or (quantize and _end(growth, node))):
            break
        covered.add(node.index)
        if _leaving(graph, covered) == {node.var}:
            best = Tail(growth.program.copy(), frozenset(covered), node)
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


def _append(growth: _Growth, node: Node) -> bool:
    """Add one binding to the program; say whether it could be done."""
    call, shape = node.value, ir.static_shape(growth.anchor.var)
    if not isinstance(call, relax.Call) or not isinstance(node.var.ty, relax.TensorType):
        return False  # a split, for one, is several tensors
    if ir.dtype(node.var) != "float32":
        return False
    if ir.static_shape(node.var) != shape:
        return False
    if ir.is_call_to(call, *BINARY):
        args = [_operand(growth, arg, shape) for arg in call.args]
        if None in args:
            return False
        value = growth.program.step(BINARY[call.op.name], *(a for a in args if a is not None))
    elif ir.is_call_to(call, *UNARY):
        value = growth.program.step(UNARY[call.op.name], growth.values[call.args[0]])
    else:
        composed = _compose(growth, call)
        if composed is None:
            return False
        value = composed
    growth.values[node.var] = value
    return True


def _end(growth: _Growth, node: Node) -> bool:
    """End the program with a quantize of its last value; say whether ``node`` is one."""
    found = forms.match_quantize(node.value)
    if found is None:
        return False
    x, how = found
    if growth.values.get(x) != growth.program.last or how.scale.ndim or how.dtype not in STORED:
        return False
    if how.dtype == "int16" and np.any(how.zero_point):
        return False  # kernels saturate to 16 bits before they add a zero point
    growth.program.output = how
    return True


def _operand(growth: _Growth, arg: relax.Expr, shape: tuple[int, ...]) -> Arg | None:
    """Return the value of an argument of a binary operator; None where a kernel cannot read it."""
    if arg in growth.values:
        return growth.values[arg]
    if ir.dtype(arg) != "float32":
        return None
    own, array = ir.static_shape(arg), ir.float_constant(arg)
    graph, program, size = growth.graph, growth.program, prod(own)
    maker = graph.maker(arg)
    stored = forms.match_dequantize(maker.value) if maker is not None else None
    if stored is not None and array is None:
        array = _real(*stored)
    if array is not None and size == 1:
        return float(array.reshape(()))
    if size == shape[-1] and own[-1:] == shape[-1:]:
        if array is None and stored is not None and _is_stored(stored[1]):
            return _dequantized(program, Operand.CHANNEL, *stored)
        return program.operand(_channels(arg, array, stored))
    if growth.ones and size == 1:
        return program.operand(Input(kind=Operand.ONE, value=arg))
    plane = prod(shape[-2:])
    if growth.planes and own[-2:] == shape[-2:] and prod(own) == plane != prod(shape):
        return program.operand(Input(kind=Operand.PLANE, value=arg))
    if own != shape:
        return None
    # A tensor that is made later by a kernel of its own will take this operator instead.
    if stored is not None and _is_stored(stored[1]) and graph.born(stored[0]) < growth.anchor.index:
        return _dequantized(program, Operand.TENSOR, *stored)
    if graph.born(arg) < growth.anchor.index or array is not None:
        return program.operand(Input(kind=Operand.TENSOR, value=arg))
    return None


def _is_stored(how: Affine) -> bool:
    """Say whether a kernel can read integers so quantized, and dequantize them by one scale."""
    return not how.scale.ndim and how.dtype in STORED


def _dequantized(program: Program, kind: Operand, source: relax.Expr, how: Affine) -> Arg:
    """Append an operand of integers and the step that dequantizes it."""
    read = program.operand(Input(kind=kind, value=source, dtype=how.dtype))
    return program.step("dequantize", read, float(how.zero_point), float(how.scale))


def _real(q: relax.Expr, how: Affine) -> np.ndarray | None:
    """Return the real numbers, float32, that constant integers stand for; None if not constant."""
    integers = ir.constant(q)
    if integers is None:
        return None
    zero, scale = how.along(how.zero_point, integers.ndim), how.along(how.scale, integers.ndim)
    return (integers.astype(np.int64) - zero).astype(np.float32) * scale


def _channels(
    arg: relax.Expr, array: np.ndarray | None, stored: tuple[relax.Expr, Affine] | None
) -> Input:
    """Return an input of one element for each channel."""
    if array is None:
        return Input(kind=Operand.CHANNEL, value=arg)
    integers = None
    if stored is not None:
        integers = (np.ascontiguousarray(ir.constant(stored[0])).reshape(-1), stored[1])
    flat = np.ascontiguousarray(array).reshape(-1)
    return Input(kind=Operand.CHANNEL, value=flat, integers=integers)


def _compose(growth: _Growth, call: relax.Call) -> Arg | None:
    """Add the steps of an operator that is more than one of them.

    A bound stands first: then a NaN passes, which behind it would become the bound.
    """
    if not call.args or call.args[0] not in growth.values:
        return None
    program = growth.program
    x, step = growth.values[call.args[0]], program.step
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
        return _leaky(program, x, program.operand(Input(kind=Operand.CHANNEL, value=flat)))
    return None


def _leaky(program: Program, x: Arg, slope: Arg) -> Arg:
    """Add the steps of ``max(0, x) + slope * min(0, x)``."""
    positive = program.step("max", 0.0, x)
    return program.step("add", positive, program.step("mul", program.step("min", 0.0, x), slope))
