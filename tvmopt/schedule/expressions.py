"""The few questions that schedules ask of TIR expressions.

TVM 0.27 exports no TIR visitor to Python; ``tvm_ffi`` walks and maps any of its objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm_ffi
from tvm import tirx
from tvm.ir import Call, Expr, Op, Range, TensorLoad
from tvm.sym import Analyzer

IF_THEN_ELSE = "prim.if_then_else"


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """One loop of a stage.

    Attributes:
        var: Its variable, which runs from 0.
        extent: Its steps.
    """

    var: tirx.Var
    extent: int


@dataclass(frozen=True, slots=True)
class Linear:
    """``sum(coefficient * variable) + constant + rest``.

    Attributes:
        coefficients: By variable; none is 0.
        constant: The constant.
        opaque: Variables that ``rest`` depends on.
    """

    coefficients: Mapping[tirx.Var, int]
    constant: int
    opaque: frozenset[tirx.Var]

    def stride(self, var: tirx.Var) -> int | None:
        """Return how far a step of ``var`` moves the value; None if that is not constant."""
        return None if var in self.opaque else self.coefficients.get(var, 0)


def structural_key(value: Any) -> tvm_ffi.StructuralKey:
    """Return a dictionary key that equals that of any value of the same structure."""
    return tvm_ffi.StructuralKey(value)  # type: ignore[call-arg]  # tvm-ffi's stub is off


def substitute(node: Expr, values: Mapping[tirx.Var, Expr]) -> Expr:
    """Return ``node`` with variables replaced."""
    return tvm_ffi.structural_map(node, (tirx.Var, lambda var: values.get(var, var)))


def variables(node: Expr) -> frozenset[tirx.Var]:
    """Return the variables that ``node`` reads, buffers left out."""
    found: set[tirx.Var] = set()
    tvm_ffi.structural_walk(node, (tirx.Var, lambda var: found.add(var)))
    # TVM 0.27 spells a buffer as a variable of a buffer type.
    return frozenset(var for var in found if not isinstance(var.ty, tirx.BufferType))


def loads(node: Expr) -> list[TensorLoad]:
    """Return the loads in ``node``, those within indices included."""
    found: list[TensorLoad] = []
    tvm_ffi.structural_walk(node, (TensorLoad, lambda load: found.append(load)))
    return found


def is_call(node: Expr, *names: str) -> bool:
    """Say whether ``node`` calls one of TIR's operators, such as ``"tirx.exp"``."""
    return isinstance(node, Call) and isinstance(node.op, Op) and node.op.name in names


def vectorizes(node: Expr, varying: frozenset[tirx.Var]) -> bool:
    """Say whether TVM 0.27 can vectorize ``node``, in which ``varying`` differ between lanes.

    VectorizeLoop turns a statement with anything else into a loop over the lanes, and loses the
    variables that the statements around it bind.
    """
    found: list[Call] = []
    tvm_ffi.structural_walk(node, (Call, lambda call: found.append(call)))
    return all(_call_vectorizes(call, varying) for call in found)


def _call_vectorizes(call: Call, varying: frozenset[tirx.Var]) -> bool:
    if is_call(call, IF_THEN_ELSE):
        return not variables(call.args[0]) & varying
    return is_call(call, "tirx.reinterpret") or bool(
        isinstance(call.op, Op) and call.op.get_attr("TVectorizable")
    )


def linear(node: Expr, named: Mapping[tirx.Var, frozenset[tirx.Var]] | None = None) -> Linear:
    """Return ``node`` as a linear form in its variables.

    Args:
        node: An integer expression.
        named: What each variable that stands for a value depends on; such ones are opaque.
    """
    coefficients: dict[tirx.Var, int] = {}
    opaque: set[tirx.Var] = set()
    constant = _collect(node, 1, coefficients, opaque)
    for var, depends in (named or {}).items():
        if coefficients.pop(var, 0) or var in opaque:
            opaque |= depends
    return Linear({v: c for v, c in coefficients.items() if c}, constant, frozenset(opaque))


def _collect(
    node: Expr, factor: int, coefficients: dict[tirx.Var, int], opaque: set[tirx.Var]
) -> int:
    """Add ``factor * node`` to the coefficients and return its constant part."""
    if isinstance(node, tirx.Add | tirx.Sub):
        sign = 1 if isinstance(node, tirx.Add) else -1
        return _collect(node.a, factor, coefficients, opaque) + _collect(
            node.b, sign * factor, coefficients, opaque
        )
    if isinstance(node, tirx.Mul) and isinstance(node.b, tirx.IntImm):
        return _collect(node.a, factor * node.b.value, coefficients, opaque)
    if isinstance(node, tirx.Mul) and isinstance(node.a, tirx.IntImm):
        return _collect(node.b, factor * node.a.value, coefficients, opaque)
    if isinstance(node, tirx.IntImm):
        return factor * node.value
    if isinstance(node, tirx.Var):
        coefficients[node] = coefficients.get(node, 0) + factor
    else:
        opaque |= variables(node)
    return 0


def analyzer(axes: Iterable[Axis]) -> Analyzer:
    """Return an analyzer that knows the range of each axis."""
    known = Analyzer()
    for axis in axes:
        known.bind(axis.var, Range(0, axis.extent))
    return known


def flat(indices: Sequence[Expr], shape: Sequence[int]) -> Expr:
    """Return the row-major offset of ``indices`` in a buffer of ``shape``."""
    offset: Expr = tirx.const(0, "int64")
    stride = 1
    for index, extent in zip(reversed(indices), reversed(shape), strict=True):
        if extent != 1:
            offset = index * stride + offset
        stride *= extent
    return offset
