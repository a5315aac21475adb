"""Store every 8-bit constant as int8, with a zero point of 0 wherever that fits.

Before::

    w = dequantize(W: uint8, s, z = 128);     v = subtract(astype(V: uint8, "int32"), 121)

After::

    w = dequantize(W - 128: int8, s, 0);      v = astype(V - 121: int8, "int32")

The kernels take signed weights, and a zero point costs them a sum over the data. Where ``W - z``
does not fit (weights that use all of an asymmetric range) the zero point stays, 128 less. Bit for
bit the same: what is multiplied by the scale is the same integer. Groups keep zero points that
differ, whose codes would need a bit more without them.

Source: none; derived here.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import tvm
from tvm import relax

from tvmopt import forms, ir
from tvmopt.passes.canonicalize.movement import has_codes
from tvmopt.passes.canonicalize.rebuild import Rebuild, rebuild_main
from tvmopt.report import Report

_SHIFT = 128


@tvm.transform.module_pass(opt_level=0, name="CenterWeights")
class CenterWeights:
    """Leave no constant of unsigned bytes, and few zero points of constants."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the rewritten module; ``mod`` is left as it was."""
        if not has_codes(mod):
            return mod
        return rebuild_main(mod, lambda graph: _Centerer(graph, self.report))


def center(codes: np.ndarray, zero: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return int8 codes and zero points of the same differences.

    Args:
        codes: int8 or uint8.
        zero: int32; broadcasts against ``codes``.

    Returns:
        The codes, and the zero points, which are 0 where every difference fits in int8.
    """
    difference = codes.astype(np.int32) - zero
    if difference.min(initial=0) >= -_SHIFT and difference.max(initial=0) < _SHIFT:
        return difference.astype(np.int8), np.zeros_like(zero)
    if codes.dtype == np.int8:
        return codes, zero
    return (codes.astype(np.int32) - _SHIFT).astype(np.int8), zero - _SHIFT


class _Centerer:
    def __init__(self, graph: Rebuild, report: Report) -> None:
        self.graph = graph
        self.report = report

    def __call__(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        if not isinstance(value, relax.Call):
            return value
        new = self._integers(var, value)
        if new is None:
            stored = forms.match_stored(value, self.graph.definition)
            new = self._dequantized(stored) if isinstance(stored, forms.Dequantized) else None
            if isinstance(stored, forms.Grouped):
                new = self._grouped(var, stored)
        if new is None:
            return value
        self.report.add(
            "CenterWeights", var.name, applied=True, reason="its differences are the same in int8"
        )
        return new

    def _dequantized(self, stored: forms.Dequantized) -> relax.Expr | None:
        how, rank = stored.how, stored.codes.ndim
        if stored.codes.dtype.itemsize != 1:
            return None
        codes, zero = center(stored.codes, np.asarray(how.along(how.zero_point, rank)))
        if codes.dtype == stored.codes.dtype and np.array_equal(codes, stored.codes):
            return None
        how = replace(how, zero_point=zero.reshape(how.zero_point.shape), dtype="int8")
        return forms.dequantize(forms.constant_of(codes), how)

    def _grouped(self, var: relax.Var, stored: forms.Grouped) -> relax.Expr | None:
        zero = stored.zero
        if stored.codes.dtype.itemsize != 1 or zero is None or np.any(zero != np.rint(zero)):
            return None
        codes, rest = stored.codes, zero.astype(np.int32)
        if np.all(zero == zero.reshape(-1)[:1]):
            codes, rest = center(codes, rest)
        elif codes.dtype == np.uint8:
            shift = _SHIFT if codes.max(initial=0) >= _SHIFT else 0
            codes, rest = (codes.astype(np.int32) - shift).astype(np.int8), rest - shift
        if codes.dtype == stored.codes.dtype and np.array_equal(codes, stored.codes):
            return None
        new = replace(stored, codes=codes, zero=rest.astype(np.float32) if rest.any() else None)
        return new.build(self.graph.emit, var.name)

    def _integers(self, var: relax.Var, call: relax.Call) -> relax.Expr | None:
        """Take a constant zero point off the constant operand of an integer product."""
        if not ir.is_call_to(call, "relax.subtract"):
            return None
        zero = ir.constant(call.args[1])
        stored = forms.match_stored(call.args[0], self.graph.definition)
        if zero is None or zero.dtype != np.int32 or not isinstance(stored, forms.Cast):
            return None
        if stored.dtype != "int32" or stored.values.dtype.itemsize != 1:
            return None
        codes, rest = center(stored.values, zero)
        if codes.dtype == stored.values.dtype and np.array_equal(codes, stored.values):
            return None
        wide = relax.op.astype(forms.constant_of(codes), "int32")
        if not rest.any():
            return wide
        return relax.op.subtract(self.graph.emit(wide, f"{var.name}_wide"), relax.const(rest))
