"""Write every matmul by a constant with a (k, n) matrix on the right.

Before::

    y: (b, m, n) = matmul(x: (b, m, k), W: (1, k, n))        z: (n,) = matmul(v: (k,), M: (k, n))

After::

    y: (b, m, n) = matmul(x, W': (k, n))                     u: (1, k) = reshape(v)
                                                             t: (1, n) = matmul(u, M)
                                                             z: (n,) = reshape(t)

Cost: none. Lowering sees one form: any rows on the left, a matrix on the right.

Source: none; the definition of the operator.
"""

from __future__ import annotations

import math

import tvm
from tvm import relax

from tvmopt import forms, ir
from tvmopt.passes.canonicalize.rebuild import Rebuild, rebuild_main
from tvmopt.report import Report


@tvm.transform.module_pass(opt_level=0, name="CanonicalizeMatmul")
class CanonicalizeMatmul:
    """Drop what is superfluous of the shapes around constant matrices and vectors."""

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
        if not ir.is_call_to(value, "relax.matmul"):
            return value
        x, weight = value.args
        rows, matrix = ir.static_shape(x), ir.static_shape(weight)
        if len(rows) == 1 or len(matrix) == 1:
            self._note(var, reason="a vector is a matrix of one row or column")
            return self._vector(var, value)
        batch = matrix[:-2]
        if not batch or math.prod(batch) != 1 or len(rows) < len(matrix):
            return value
        plain = self._without_batch(weight, matrix[-2:], f"{var.name}_weight")
        if plain is None:
            return value
        self._note(var, reason="the batch of the constant has one element")
        return ir.with_changes(value, [x, plain])

    def _without_batch(
        self, weight: relax.Expr, shape: tuple[int, ...], name: str
    ) -> relax.Expr | None:
        """Return a constant, perhaps one kept in fewer bits, as a matrix; None for others."""
        array = ir.constant(weight)
        if array is not None:
            return relax.const(array.reshape(shape), ir.dtype(weight))
        stored = forms.match_stored(weight, self.graph.definition)
        matrix = None if stored is None else stored.reshaped(shape)
        return None if matrix is None else matrix.build(self.graph.emit, name)

    def _vector(self, var: relax.Var, call: relax.Call) -> relax.Call:
        """Give a vector on the left a row, one on the right a column, and take it off again."""
        left, right = call.args
        if len(ir.shape(left)) == 1:
            left = self._reshape(left, (1, *ir.static_shape(left)), f"{var.name}_row")
        if len(ir.shape(right)) == 1:
            right = self._reshape(right, (*ir.static_shape(right), 1), f"{var.name}_column")
        matrix = self.graph.emit(ir.with_changes(call, [left, right]), f"{var.name}_matrix")
        return relax.op.reshape(matrix, ir.shape(var))

    def _reshape(self, expr: relax.Expr, shape: tuple[int, ...], name: str) -> relax.Expr:
        value = ir.constant(expr)
        if value is not None:
            return relax.const(value.reshape(shape), ir.dtype(expr))
        return self.graph.emit(relax.op.reshape(expr, shape), name)

    def _note(self, var: relax.Var, *, reason: str) -> None:
        self.report.add("CanonicalizeMatmul", var.name, applied=True, reason=reason)
