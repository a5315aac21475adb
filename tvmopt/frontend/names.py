"""Name the bindings of an imported function after the ONNX nodes they came from."""

from __future__ import annotations

from collections.abc import Mapping

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvmopt import ir
from tvmopt.frontend.messages import identifier


class Names:
    """Identifiers handed out once each."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def fresh(self, name: str, fallback: str = "value") -> str:
        """Return ``name`` as an identifier that was not returned before, numbered if need be."""
        base = identifier(name, fallback)
        chosen, count = base, 1
        while chosen in self._taken:
            count += 1
            chosen = f"{base}_{count}"
        self._taken.add(chosen)
        return chosen


def name_bindings(mod: tvm.IRModule, layers: Mapping[relax.Var, str], names: Names) -> tvm.IRModule:
    """Return ``mod`` with every binding of its functions named after a layer.

    Args:
        mod: What the importer built.
        layers: The variable that holds a node's result, and the node's name. A binding without an
            entry is a step on the way to the next one that has one: it is named after that layer
            and its own operator.
        names: Gives each name once; it has already named the parameters.

    Returns:
        The same functions under new variable names.
    """
    return ir.rewrite_functions(mod, _Renamer(mod, layers, names))


@mutator
class _Renamer(PyExprMutator):
    def __init__(self, mod: tvm.IRModule, layers: Mapping[relax.Var, str], names: Names) -> None:
        super().__init__(mod)
        self.layers = layers
        self.names = names
        self.steps: list[relax.VarBinding] = []

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        layer = self.layers.get(binding.var)
        is_output = not isinstance(binding.var, relax.DataflowVar)
        if layer is None and not is_output:
            self.steps.append(binding)
            return
        for step in self.steps:
            self._rename(step, f"{layer or 'output'}_{_operator(step.value)}")
        self.steps.clear()
        self._rename(binding, layer or "output")

    def _rename(self, binding: relax.VarBinding, name: str) -> None:
        kind = relax.DataflowVar if isinstance(binding.var, relax.DataflowVar) else relax.Var
        var = kind(self.names.fresh(name), binding.var.ty)
        self.builder_.emit_normalized(relax.VarBinding(var, self.visit_expr(binding.value)))
        self.set_var_remap(binding.var, var)


def _operator(value: relax.Expr) -> str:
    """Return the short name of what an expression computes, such as ``"conv2d"``."""
    if isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.Op):
        if value.op.name == "relax.call_tir":
            return str(value.args[0].name_hint)
        return value.op.name.rsplit(".", 1)[-1]
    return "item" if isinstance(value, relax.TupleGetItem) else "step"
