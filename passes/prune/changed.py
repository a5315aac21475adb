"""Bind variables of a graph to something else.

Source: none.
"""

from __future__ import annotations

from collections.abc import Mapping

import tvm
from tvm import relax

from tvmopt.passes.canonicalize.rebuild import rebuild_main
from tvmopt.passes.quantize.weight_layers import Build


def changed(mod: tvm.IRModule, changes: Mapping[relax.Var, Build]) -> tvm.IRModule:
    """Return the module with other values bound to some variables; ``mod`` is left as it was."""

    def rule(var: relax.Var, value: relax.Expr) -> relax.Expr:
        return changes[var](value, lambda expr, _name: expr) if var in changes else value

    return rebuild_main(mod, lambda _graph: rule)
