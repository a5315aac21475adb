"""Take out what quantization implies, or undoes.

Before::

    y = quantize(dequantize(q, s, z), s, z)
    u = quantize(relu(x), s, z = the least integer);        v = relu(dequantize(q, s, z = the same))

After::

    y = q
    u = quantize(x, s, z);                                  v = dequantize(q, s, z)

A bound vanishes where the range of the integers is at least as narrow. Bit for bit the same (but
for NaNs, which no integer stands for): ``(q - z) * s / s`` is off by two roundings, which is less
than half of a step for integers of up to 16 bits.

Source: none; derived here.
"""

from __future__ import annotations

import math

import numpy as np
import tvm
from tvm import relax

from tvmopt import forms, ir
from tvmopt.forms import Affine
from tvmopt.passes.canonicalize.movement import has_codes
from tvmopt.passes.canonicalize.rebuild import Rebuild, rebuild_main
from tvmopt.report import Report


@tvm.transform.module_pass(opt_level=0, name="EliminateRequantization")
class EliminateRequantization:
    """Leave no pair that cancels and no bound that an integer type implies."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the rewritten module; ``mod`` is left as it was."""
        if not has_codes(mod):
            return mod
        return rebuild_main(mod, lambda graph: _Eliminator(graph, self.report))


class _Eliminator:
    def __init__(self, graph: Rebuild, report: Report) -> None:
        self.graph = graph
        self.report = report

    def __call__(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        found = forms.match_quantize(value)
        if found is not None:
            return self._quantize(var, value, *found)
        bounds = _bounds(value)
        if bounds is None:
            return value
        made = forms.match_dequantize(self.graph.definition(bounds[0]))
        if made is None or not _within(made[1], *bounds[1:]):
            return value
        self._note(var, "no integer stands for a number beyond the bounds")
        return bounds[0]

    def _quantize(
        self, var: relax.Var, value: relax.Expr, x: relax.Expr, how: Affine
    ) -> relax.Expr:
        inner = forms.match_dequantize(self.graph.definition(x))
        if inner is not None and inner[1].same(how):
            self._note(var, "it undoes the dequantize that it reads")
            return inner[0]
        source = x
        while self.graph.read_once(source):
            bounds = _bounds(self.graph.definition(source))
            if bounds is None or not _implied(how, *bounds[1:]):
                break
            source = bounds[0]
        if source.same_as(x):
            return value
        self._note(var, "the range of its integers implies the bounds in front")
        return forms.quantize(source, how)

    def _note(self, var: relax.Var, reason: str) -> None:
        self.report.add("EliminateRequantization", var.name, applied=True, reason=reason)


def _bounds(value: relax.Expr) -> tuple[relax.Expr, float, float] | None:
    """Read a call as ``min(max(x, low), high)``."""
    if ir.is_call_to(value, "relax.nn.relu"):
        return value.args[0], 0.0, math.inf
    if ir.is_call_to(value, "relax.clip"):
        return value.args[0], ir.scalar(value.args[1]), ir.scalar(value.args[2])
    return None


def _implied(how: Affine, low: float, high: float) -> bool:
    """Say whether quantizing makes the same of a number beyond a bound as of the bound."""
    return bool(np.all(_units(how, low) <= how.low) and np.all(_units(how, high) >= how.high))


def _units(how: Affine, bound: float) -> np.ndarray:
    """Return the integers that stand for a bound, as if there were integers beyond all limits."""
    return np.rint(np.float32(bound) / how.scale) + how.zero_point


def _within(how: Affine, low: float, high: float) -> bool:
    """Say whether all numbers that integers stand for lie within the bounds."""
    least, greatest = (
        (np.float32(end) - how.zero_point.astype(np.float32)) * how.scale
        for end in (how.low, how.high)
    )
    return bool(np.all(least >= low) and np.all(greatest <= high))
