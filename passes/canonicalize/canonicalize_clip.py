"""Write every bound by a number as ``relu`` or ``clip``, and ``max(x, a * x)`` as ``leakyrelu``.

Before::

    y = maximum(x, 0);  z = minimum(relu(x), 6);  u = minimum(maximum(x, a), b)
    v = clip(x, 0, inf);  w = maximum(x, multiply(x, 0.1))

After::

    y = relu(x);        z = clip(x, 0, 6);        u = clip(x, a, b)
    v = relu(x);          w = leakyrelu(x, 0.1)

Bit for bit the same, as TVM defines ``relu`` and ``clip`` by the same maximum and minimum. Cost: an
operator less for each pair.

Source: none; the definition of the operators.
"""

from __future__ import annotations

import math

import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.passes.canonicalize.products import is_all, product, scalar
from tvmopt.passes.canonicalize.rebuild import Rebuild, rebuild_main
from tvmopt.report import Report


@tvm.transform.module_pass(opt_level=0, name="CanonicalizeClip")
class CanonicalizeClip:
    """Leave one spelling of bounds behind."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the rewritten module; ``mod`` is left as it was."""
        return rebuild_main(mod, lambda graph: _Canonicalizer(graph, self.report))


class _Canonicalizer:
    def __init__(self, graph: Rebuild, report: Report) -> None:
        self.graph = graph
        self.report = report

    def __call__(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        new = self._bounded(var, value)
        new = self._leaky(value) if new is None else new
        if new is None:
            return value
        name = new.op.name.removeprefix("relax.")
        self.report.add(
            "CanonicalizeClip", var.name, applied=True, reason=f"it is another spelling of {name}"
        )
        return new

    def _bounded(self, var: relax.Var, value: relax.Expr) -> relax.Call | None:
        bounds = _bounds(value)
        if bounds is None or not ir.same_type(bounds[0], var):
            return None
        x, low, high = bounds
        inner = _bounds(self.graph.definition(x)) if self.graph.read_once(x) else None
        if inner is not None and inner[1] <= high and inner[2] >= low:
            # min(max(x, a), b) is applied inside out; with a <= b the order does not matter.
            x, low, high = inner[0], max(low, inner[1]), min(high, inner[2])
        elif ir.is_call_to(value, "relax.nn.relu") or _is_clip_of_two(value):
            return None
        if (low, high) == (0.0, math.inf):
            return relax.op.nn.relu(x)
        # One bound alone is no clip, which would compute the other as well.
        return relax.op.clip(x, low, high) if math.isfinite(low) and math.isfinite(high) else None

    def _leaky(self, value: relax.Expr) -> relax.Call | None:
        """Match max(x, a * x) with 0 < a < 1."""
        if not ir.is_call_to(value, "relax.maximum"):
            return None
        for x, slope in (value.args, reversed(value.args)):
            scaled = product(self.graph, slope)
            if is_all(scaled.factors, x, 1) and 0.0 < scaled.coefficient < 1.0:
                return relax.op.nn.leakyrelu(x, scaled.coefficient)
        return None


def _is_clip_of_two(value: relax.Expr) -> bool:
    return ir.is_call_to(value, "relax.clip") and all(
        math.isfinite(ir.scalar(bound)) for bound in value.args[1:3]
    )


def _bounds(value: relax.Expr) -> tuple[relax.Expr, float, float] | None:
    """Read a call as ``min(max(x, low), high)`` of a floating-point tensor."""
    if ir.is_call_to(value, "relax.nn.relu"):
        return value.args[0], 0.0, math.inf
    if ir.is_call_to(value, "relax.clip") and ir.dtype(value.args[0]).startswith("float"):
        return value.args[0], ir.scalar(value.args[1]), ir.scalar(value.args[2])
    if ir.is_call_to(value, "relax.maximum", "relax.minimum"):
        for x, bound in (value.args, reversed(value.args)):
            number = scalar(bound)
            if number is not None and not math.isnan(number) and not ir.is_constant(x):
                if ir.is_call_to(value, "relax.maximum"):
                    return x, number, math.inf
                return x, -math.inf, number
    return None
