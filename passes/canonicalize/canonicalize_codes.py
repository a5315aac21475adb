"""Write integers that are cast and scaled as ``dequantize``.

Before::

    w = multiply(subtract(astype(W: int8 (k, n), "float32"), z), s: (1, n))

After::

    w = dequantize(W, s, z, axis=1)

Exporters without an operator for it spell quantized weights so. Bit for bit the same: differences
of integers of up to 16 bits are exact in float32. Scales of groups stay as they are spelled, which
is their form (``forms.Grouped``).

Source: none; the definition of the operator.
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from tvmopt import forms, ir
from tvmopt.forms import Affine
from tvmopt.passes.canonicalize.movement import has_codes
from tvmopt.passes.canonicalize.rebuild import Rebuild, rebuild_main
from tvmopt.report import Report


@tvm.transform.module_pass(opt_level=0, name="CanonicalizeCodes")
class CanonicalizeCodes:
    """Leave one spelling of constants with one scale, or one a channel."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the rewritten module; ``mod`` is left as it was."""
        if not has_codes(mod):
            return mod
        return rebuild_main(mod, lambda graph: _Canonicalizer(graph, self.report))


class _Canonicalizer:
    def __init__(self, graph: Rebuild, report: Report) -> None:
        self.graph = graph
        self.report = report

    def __call__(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        if not ir.is_call_to(value, "relax.multiply") or self._is_grouped(var):
            return value
        for wide, scale in (value.args, reversed(value.args)):
            new = self._dequantized(var, wide, ir.float_constant(scale))
            if new is not None:
                self.report.add(
                    "CanonicalizeCodes", var.name, applied=True, reason="it dequantizes a constant"
                )
                return new
        return value

    def _is_grouped(self, var: relax.Var) -> bool:
        """Say whether the scales are those of groups, which a reshape joins."""
        return any(
            isinstance(forms.match_stored(self.graph.old[user], self._before), forms.Grouped)
            for user in self.graph.users.get(var, ())
        )

    def _before(self, expr: relax.Expr) -> relax.Expr:
        return self.graph.old.get(expr, expr) if isinstance(expr, relax.Var) else expr

    def _dequantized(
        self, var: relax.Var, wide: relax.Expr, scale: np.ndarray | None
    ) -> relax.Expr | None:
        call, zero = self.graph.definition(wide), np.zeros((), np.float32)
        if ir.is_call_to(call, "relax.subtract"):
            known = ir.float_constant(call.args[1])
            if known is None:
                return None
            zero, call = known, self.graph.definition(call.args[0])
        stored = forms.match_stored(call, self.graph.definition)
        if not isinstance(stored, forms.Cast) or stored.values.dtype.kind not in "iu":
            return None
        if scale is None or scale.dtype != np.float32 or stored.shape != ir.static_shape(var):
            return None
        how = _affine(scale, zero, stored.values)
        return None if how is None else forms.dequantize(forms.constant_of(stored.values), how)


def _affine(scale: np.ndarray, zero: np.ndarray, codes: np.ndarray) -> Affine | None:
    """Return scales and zero points that vary along one axis at most as what the codes mean."""
    whole = np.broadcast_shapes(scale.shape, zero.shape)
    long = [axis for axis, size in enumerate(whole) if size != 1]
    whole_numbers = np.all(zero == np.rint(zero)) and np.all(np.abs(zero) < 2.0**24)
    if len(long) > 1 or not (whole_numbers and np.all(scale > 0) and np.all(np.isfinite(scale))):
        return None
    axis = long[0] + codes.ndim - len(whole) if long else 0
    if long and codes.shape[axis] != whole[long[0]]:
        return None
    return Affine(
        scale=np.broadcast_to(scale, whole).reshape(-1 if long else ()),
        zero_point=np.broadcast_to(zero, whole).reshape(-1 if long else ()).astype(np.int32),
        dtype=str(codes.dtype),
        axis=axis,
    )
