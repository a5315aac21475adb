"""A layer of a graph, and the factors that are to stand for it.

Source: none; derived here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from tvmopt import forms, ir
from tvmopt.passes.canonicalize.rebuild import rebuild_main
from tvmopt.passes.lowrank.factors import Factor, build
from tvmopt.passes.prune.float_layers import FloatLayer
from tvmopt.passes.quantize.weight_layers import Build


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Factorized:
    """A layer that was factorized.

    Attributes:
        layer: The layer.
        factors: What stands for it.
        bias: Its bias, (o,); None where it has none.
        reason: What was done.
    """

    layer: FloatLayer
    factors: tuple[Factor, ...]
    bias: np.ndarray | None
    reason: str

    def changes(self) -> Iterator[tuple[relax.Var, Build]]:
        """Yield what must change in the graph."""
        layer = self.layer.layer

        def product_of(value: relax.Expr, emit: forms.Emit) -> relax.Expr:
            return build(value, self.factors, layer.name, emit)

        def total(value: relax.Expr, _emit: forms.Emit) -> relax.Expr:
            place = 1 if ir.float_constant(value.args[1]) is not None else 0
            args = list(value.args)
            assert self.bias is not None, f"{layer.name} has a sum, and so a bias"
            shape = ir.static_shape(args[place])
            args[place] = relax.const(self.bias.astype(np.float32).reshape(shape))
            return ir.with_changes(value, args)

        yield layer.var, product_of
        if layer.bias_var is not None:
            yield layer.bias_var, total


def with_factors(mod: tvm.IRModule, done: Sequence[Factorized]) -> tvm.IRModule:
    """Return the module with its layers replaced by factors."""
    if not done:
        return mod
    changes = {var: make for one in done for var, make in one.changes()}

    def bind(emit: forms.Emit, var: relax.Var, value: relax.Expr) -> relax.Expr:
        return changes[var](value, emit) if var in changes else value

    return ir.unique_names(
        rebuild_main(mod, lambda graph: lambda var, value: bind(graph.emit, var, value))
    )
