"""Recognise layer normalization and softmax that exporters have taken apart.

Before::

    d = subtract(x, mean(x, axes));  s = sqrt(add(mean(multiply(d, d), axes), epsilon))
    y = add(multiply(divide(d, s), gamma), beta)
    e = exp(subtract(x, max(x, axis)));  z = divide(e, sum(e, axis))

After::

    y = layer_norm(x, gamma, beta, axes, epsilon)
    z = softmax(x, axis)

Also with ``power(d, 2)``, ``multiply(d, rsqrt(...))``, and without gamma or beta. The results
differ by rounding only. Cost: one pass over the tensor instead of up to nine.

Source: J. Ba, J. Kiros and G. Hinton, "Layer normalization", arXiv:1607.06450, 2016, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.passes.canonicalize.products import is_all, plus, product, scalar
from tvmopt.passes.canonicalize.rebuild import Rebuild, rebuild_main
from tvmopt.report import Report


@tvm.transform.module_pass(opt_level=0, name="FuseLayerNorm")
class FuseLayerNorm:
    """Write each normalization over axes as its operator."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the rewritten module; ``mod`` is left as it was."""
        return rebuild_main(mod, lambda graph: _Fuser(graph, self.report))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reduced:
    """A reduction that keeps its axes.

    Attributes:
        data: What is reduced.
        axes: Over which axes, ascending.
    """

    data: relax.Expr
    axes: tuple[int, ...]


class _Fuser:
    def __init__(self, graph: Rebuild, report: Report) -> None:
        self.graph = graph
        self.report = report
        self._matches = (self._softmax, self._normalized, self._with_parameter)

    def __call__(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        if not ir.is_call_to(value, "relax.divide", "relax.multiply", "relax.add"):
            return value
        matches = (match(value) for match in self._matches)
        new = next((call for call in matches if call is not None), None)
        if new is None:
            return value
        name = new.op.name.removeprefix("relax.nn.")
        self.report.add("FuseLayerNorm", var.name, applied=True, reason=f"it ends a {name}")
        return new

    def _softmax(self, value: relax.Call) -> relax.Call | None:
        if not ir.is_call_to(value, "relax.divide"):
            return None
        total = self._reduced(value.args[1], "relax.sum")
        exp = self.graph.definition(value.args[0])
        if total is None or not total.data.same_as(value.args[0]) or len(total.axes) != 1:
            return None
        shifted = self.graph.definition(exp.args[0]) if ir.is_call_to(exp, "relax.exp") else None
        if not ir.is_call_to(shifted, "relax.subtract"):
            return None
        top = self._reduced(shifted.args[1], "relax.max")
        if top is None or not top.data.same_as(shifted.args[0]) or top.axes != total.axes:
            return None
        return relax.op.nn.softmax(shifted.args[0], axis=total.axes[0])

    def _normalized(self, value: relax.Call) -> relax.Call | None:
        """Match ``d / sqrt(mean(d * d) + epsilon)`` with ``d = x - mean(x)``."""
        parts = self._deviation_and_variance(value)
        if parts is None:
            return None
        deviation, shifted = parts
        line = plus(self.graph, shifted)
        centred = self.graph.definition(deviation)
        if line is None or line[1] < 0.0 or not ir.is_call_to(centred, "relax.subtract"):
            return None
        variance = self._reduced(line[0], "relax.mean")
        mean = self._reduced(centred.args[1], "relax.mean")
        x = centred.args[0]
        if variance is None or mean is None or mean.axes != variance.axes:
            return None
        square = product(self.graph, variance.data)
        if not mean.data.same_as(x) or square.coefficient != 1.0:
            return None
        if not is_all(square.factors, deviation, 2):
            return None
        dims = tuple(ir.static_shape(x)[a] for a in mean.axes)
        ones, zeros = (relax.const(make(dims, ir.dtype(x))) for make in (np.ones, np.zeros))
        return relax.op.nn.layer_norm(x, ones, zeros, list(mean.axes), line[1])

    def _deviation_and_variance(self, value: relax.Call) -> tuple[relax.Expr, relax.Expr] | None:
        """Read ``d / sqrt(v)``, ``d * rsqrt(v)`` or ``d * (1 / sqrt(v))`` as d and v."""
        if ir.is_call_to(value, "relax.divide"):
            root = self.graph.definition(value.args[1])
            if ir.is_call_to(root, "relax.sqrt") and not ir.is_constant(value.args[0]):
                return value.args[0], root.args[0]
        if ir.is_call_to(value, "relax.multiply"):
            for deviation, factor in (value.args, reversed(value.args)):
                inverse = self.graph.definition(factor)
                if ir.is_call_to(inverse, "relax.rsqrt"):
                    return deviation, inverse.args[0]
                if ir.is_call_to(inverse, "relax.divide") and scalar(inverse.args[0]) == 1.0:
                    root = self.graph.definition(inverse.args[1])
                    if ir.is_call_to(root, "relax.sqrt"):
                        return deviation, root.args[0]
        return None

    def _with_parameter(self, value: relax.Call) -> relax.Call | None:
        """Take a constant factor or summand behind a layer norm as its gamma or beta."""
        if ir.is_call_to(value, "relax.divide"):
            return None
        for tensor, parameter in (value.args, reversed(value.args)):
            norm = self.graph.definition(tensor)
            if not ir.is_call_to(norm, "relax.nn.layer_norm") or not self.graph.read_once(tensor):
                continue
            new = _as_parameter(norm, parameter)
            gamma, beta = ir.constant(norm.args[1]), ir.constant(norm.args[2])
            if new is None or gamma is None or beta is None or np.any(beta):
                continue
            if ir.is_call_to(value, "relax.add"):
                return ir.with_changes(norm, [norm.args[0], norm.args[1], relax.const(new)])
            if np.all(gamma == 1):
                return ir.with_changes(norm, [norm.args[0], relax.const(new), norm.args[2]])
        return None

    def _reduced(self, expr: relax.Expr, op: str) -> _Reduced | None:
        call = self.graph.definition(expr)
        if not ir.is_call_to(call, op) or not call.attrs.keepdims:
            return None
        rank = len(ir.shape(call.args[0]))
        axes = range(rank) if call.attrs.axis is None else call.attrs.axis
        return _Reduced(data=call.args[0], axes=tuple(sorted(int(a) % rank for a in axes)))


def _as_parameter(norm: relax.Call, parameter: relax.Expr) -> np.ndarray | None:
    """Return a constant as a tensor over the normalized axes, if it varies along no other."""
    value = ir.float_constant(parameter)
    dims = ir.static_shape(norm.args[0])
    if value is None or value.ndim > len(dims):
        return None
    axes = [int(a) % len(dims) for a in norm.attrs.axes]
    padded = value.reshape((1,) * (len(dims) - value.ndim) + value.shape)
    if any(size != 1 for i, size in enumerate(padded.shape) if i not in axes):
        return None
    # The axes are ascending, so what is left after dropping the others is in their order.
    kept = padded.reshape([padded.shape[a] for a in axes])
    return np.broadcast_to(kept, [dims[a] for a in axes]).copy()
