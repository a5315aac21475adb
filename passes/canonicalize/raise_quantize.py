"""Quantize before data is moved, rather than after.

Before::

    y = quantize(permute_dims(concat((a, b))), s, z)

After::

    y = permute_dims(concat((quantize(a, s, z), quantize(b, s, z))))

where nothing else reads what is between. Bit for bit the same: rounding keeps the order of numbers.
Cost: a quarter of the bytes are moved, and the kernels that make ``a`` and ``b`` can quantize them
on their way. What makes the tensor smaller (a slice) stays in front.

Source: none; derived here.
"""

from __future__ import annotations

import tvm
from tvm import relax

from tvmopt import forms
from tvmopt.forms import Affine
from tvmopt.passes.canonicalize.movement import data_of, grows, has_codes, on_integers
from tvmopt.passes.canonicalize.rebuild import Rebuild, rebuild_main
from tvmopt.report import Report


@tvm.transform.module_pass(opt_level=0, name="RaiseQuantize")
class RaiseQuantize:
    """Quantize in front of every movement of data that does not shrink it."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the rewritten module; ``mod`` is left as it was."""
        if not has_codes(mod):
            return mod
        return rebuild_main(mod, lambda graph: _Raiser(graph, self.report))


class _Raiser:
    def __init__(self, graph: Rebuild, report: Report) -> None:
        self.graph = graph
        self.report = report

    def __call__(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        found = forms.match_quantize(value)
        if found is None or found[1].scale.ndim:
            return value
        new = self._raised(*found, var.name)
        if new is None:
            return value
        self.report.add(
            "RaiseQuantize", var.name, applied=True, reason="what it reads only moves data"
        )
        return new

    def _raised(self, x: relax.Expr, how: Affine, name: str) -> relax.Call | None:
        """Return the movement behind ``x`` of quantized operands; None if there is none."""
        call = self.graph.definition(x)
        operands = data_of(call)
        if not operands or not self.graph.read_once(x) or not grows(call):
            return None
        parts = [self._quantized(x, how, f"{name}_{i}") for i, x in enumerate(operands)]
        return on_integers(call, parts, how, exactly=False)

    def _quantized(self, x: relax.Expr, how: Affine, name: str) -> relax.Expr:
        found = forms.match_dequantize(self.graph.definition(x))
        if found is not None and found[1].same(how):
            return found[0]
        raised = self._raised(x, how, name)
        return self.graph.emit(forms.quantize(x, how) if raised is None else raised, name)
