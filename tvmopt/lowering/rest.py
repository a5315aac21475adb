"""What no kernel generator claims: TVM's own operators, fused and scheduled."""

from __future__ import annotations

import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.errors import UnsupportedError
from tvmopt.lowering.legalize import LEGALIZE
from tvmopt.schedule.rest import schedule_rest
from tvmopt.targets.description import CpuTarget

_LOWERED = ("relax.call_tir", "relax.reshape")


def lower_rest(mod: tvm.IRModule, target: CpuTarget) -> tvm.IRModule:
    """Return ``mod`` with every operator left in it turned into a scheduled PrimFunc.

    Reshapes stay as they are: they are views, and cost nothing.
    """
    with target.to_tvm():
        mod = tvm.transform.Sequential(
            [
                # First: what kernels have made needless must not be fused with what is needed.
                relax.transform.DeadCodeElimination(),
                relax.transform.LegalizeOps(LEGALIZE, skip_ops=["relax.reshape"]),
                relax.transform.AnnotateTIROpPattern(),
                relax.transform.FuseOps(),
                relax.transform.FuseTIR(),
                relax.transform.DeadCodeElimination(),
            ]
        )(mod)
    _refuse_what_is_left(mod)
    return schedule_rest(mod, target)


def _refuse_what_is_left(mod: tvm.IRModule) -> None:
    """Name every operator that neither a kernel nor TVM turns into a PrimFunc.

    Raises:
        UnsupportedError: There is one.
    """
    layers: dict[str, list[str]] = {}
    for var, value in ir.bindings(mod["main"]):
        if ir.is_call_to(value, *_LOWERED) or not isinstance(value, relax.Call):
            continue
        name = value.op.name if isinstance(value.op, tvm.ir.Op) else str(value.op)
        layers.setdefault(name.removeprefix("relax."), []).append(repr(var.name))
    if layers:
        named = "; ".join(f"{name} ({', '.join(vars_)})" for name, vars_ in layers.items())
        raise UnsupportedError(f"every operator must be supported, not compiled yet: {named}")
