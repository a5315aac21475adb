"""What no kernel generator claims: TVM's own operators, fused and scheduled."""

from __future__ import annotations

import tvm
from tvm import relax

from tvmopt.lowering.legalize import LEGALIZE
from tvmopt.schedule.rest import schedule_rest
from tvmopt.targets.description import CpuTarget


def lower_rest(mod: tvm.IRModule, target: CpuTarget) -> tvm.IRModule:
    """Return ``mod`` with every operator left in it turned into a scheduled PrimFunc.

    Reshapes stay as they are: they are views, and cost nothing.
    """
    with target.to_tvm():
        mod = tvm.transform.Sequential(
            [
                relax.transform.LegalizeOps(LEGALIZE, skip_ops=["relax.reshape"]),
                relax.transform.AnnotateTIROpPattern(),
                relax.transform.FuseOps(),
                relax.transform.FuseTIR(),
                relax.transform.DeadCodeElimination(),
            ]
        )(mod)
    return schedule_rest(mod, target)
