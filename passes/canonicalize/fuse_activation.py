"""Recognise activations that exporters have taken apart, in whatever order they are spelled.

Before::

    y = multiply(divide(x, 2), add(erf(divide(x, sqrt(2))), 1))
    z = multiply(x, sigmoid(x))
    u = divide(multiply(x, clip(add(x, 3), 0, 6)), 6)
    v = multiply(0.5 * x, add(1, tanh(sqrt(2 / pi) * (x + 0.044715 * x ** 3))))

After::

    y = gelu(x);  z = silu(x);  v = gelu_tanh(x)
    u = multiply(multiply(x, clip(add(x, 3), 0, 6)), 1 / 6)

Hard-swish has no operator in Relax, so it has one spelling; its last factor can move into the
weights of what follows. The results differ by the roundings of constants and products only. Cost:
one pass over the tensor at most, where lowering had nothing to fuse it to.

Sources: D. Hendrycks and K. Gimpel, "Gaussian error linear units", arXiv:1606.08415, 2016, for both
forms of gelu; S. Elfwing et al., "Sigmoid-weighted linear units", Neural Networks 107, 2018, for
silu; A. Howard et al., "Searching for MobileNetV3", ICCV 2019, section 5.2, for
hard-swish.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.passes.canonicalize.products import is_all, is_near, others, plus, product, scalar
from tvmopt.passes.canonicalize.rebuild import Rebuild, rebuild_main
from tvmopt.report import Report


@tvm.transform.module_pass(opt_level=0, name="FuseActivation")
class FuseActivation:
    """Write each activation as its operator."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the rewritten module; ``mod`` is left as it was."""
        return rebuild_main(mod, lambda graph: _Fuser(graph, self.report))


class _Fuser:
    def __init__(self, graph: Rebuild, report: Report) -> None:
        self.graph = graph
        self.report = report

    def __call__(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        if not ir.is_call_to(value, "relax.multiply", "relax.divide"):
            return value
        whole = product(self.graph, value)
        for x, gate in others(whole.factors):
            for name, match in _GATES.items():
                if match(self.graph, whole.coefficient, x, gate):
                    return self._fused(name, var, value, x)
        return value

    def _fused(self, name: str, var: relax.Var, value: relax.Call, x: relax.Expr) -> relax.Expr:
        if name == "hard-swish":
            new = self._hard_swish(var, value, x)
            if new is value:
                return value
        else:
            new = _OPERATORS[name](x)
        self.report.add("FuseActivation", var.name, applied=True, reason=f"it ends a {name}")
        return new

    def _hard_swish(self, var: relax.Var, value: relax.Call, x: relax.Expr) -> relax.Expr:
        """Return the one spelling of hard-swish, or ``value`` if that is how it is spelled."""
        sixth = relax.const(np.asarray(1.0 / 6.0, ir.dtype(var)))
        gated = self.graph.definition(value.args[0])
        spelled = ir.is_call_to(value, "relax.multiply") and ir.is_call_to(gated, "relax.multiply")
        if spelled and scalar(value.args[1]) == scalar(sixth):
            return value
        three = relax.const(np.asarray(3.0, ir.dtype(var)))
        shifted = self.graph.emit(relax.op.add(x, three), f"{var.name}_shifted")
        gate = self.graph.emit(relax.op.clip(shifted, 0.0, 6.0), f"{var.name}_gate")
        return relax.op.multiply(
            self.graph.emit(relax.op.multiply(x, gate), f"{var.name}_gated"), sixth
        )


def _is_silu(graph: Rebuild, coefficient: float, x: relax.Expr, gate: relax.Expr) -> bool:
    call = graph.definition(gate)
    return coefficient == 1.0 and ir.is_call_to(call, "relax.sigmoid") and call.args[0].same_as(x)


def _is_hard_swish(graph: Rebuild, coefficient: float, x: relax.Expr, gate: relax.Expr) -> bool:
    """Match c * x * clip(a * x + b, 0, h) with c * a = 1 / 6, c * b = 1 / 2, c * h = 1."""
    call = graph.definition(gate)
    if not ir.is_call_to(call, "relax.clip") or ir.scalar(call.args[1]) != 0.0:
        return False
    line = plus(graph, call.args[0])
    if line is None:
        return False
    scaled = product(graph, line[0])
    return (
        is_all(scaled.factors, x, 1)
        and is_near(coefficient * scaled.coefficient, 1.0 / 6.0)
        and is_near(coefficient * line[1], 0.5)
        and is_near(coefficient * ir.scalar(call.args[2]), 1.0)
    )


def _is_gelu(graph: Rebuild, coefficient: float, x: relax.Expr, gate: relax.Expr) -> bool:
    """Match x / 2 * (1 + erf(x / sqrt(2)))."""
    inner = _one_plus(graph, coefficient, gate, "relax.erf")
    if inner is None:
        return False
    scaled = product(graph, inner)
    return is_all(scaled.factors, x, 1) and is_near(scaled.coefficient, math.sqrt(0.5))


def _is_gelu_tanh(graph: Rebuild, coefficient: float, x: relax.Expr, gate: relax.Expr) -> bool:
    """Match x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))), the cube also factored."""
    inner = _one_plus(graph, coefficient, gate, "relax.tanh")
    if inner is None:
        return False
    outer = product(graph, inner)
    if not is_near(outer.coefficient, math.sqrt(2.0 / math.pi)):
        return False
    if len(outer.factors) == 1:
        call = graph.definition(outer.factors[0])
        if not ir.is_call_to(call, "relax.add"):
            return False
        return any(
            a.same_as(x) and _is_scaled_power(graph, b, x, 3)
            for a, b in (call.args, reversed(call.args))
        )
    return any(
        a.same_as(x)
        and (line := plus(graph, b)) is not None
        and line[1] == 1.0
        and _is_scaled_power(graph, line[0], x, 2)
        for a, b in others(outer.factors)
    )


def _one_plus(graph: Rebuild, coefficient: float, gate: relax.Expr, op: str) -> relax.Expr | None:
    """Return t of ``1 + op(t)`` if ``gate`` is that and the whole has the coefficient 1 / 2."""
    line = plus(graph, gate)
    if coefficient != 0.5 or line is None or line[1] != 1.0:
        return None
    call = graph.definition(line[0])
    return call.args[0] if ir.is_call_to(call, op) else None


def _is_scaled_power(graph: Rebuild, expr: relax.Expr, x: relax.Expr, power: int) -> bool:
    scaled = product(graph, expr)
    return is_all(scaled.factors, x, power) and is_near(scaled.coefficient, 0.044715)


_GATES: dict[str, Callable[[Rebuild, float, relax.Expr, relax.Expr], bool]] = {
    "silu": _is_silu,
    "hard-swish": _is_hard_swish,
    "gelu": _is_gelu,
    "gelu_tanh": _is_gelu_tanh,
}
_OPERATORS: dict[str, Callable[[relax.Expr], relax.Expr]] = {
    "silu": relax.op.nn.silu,
    "gelu": relax.op.nn.gelu,
    "gelu_tanh": relax.op.nn.gelu_tanh,
}
