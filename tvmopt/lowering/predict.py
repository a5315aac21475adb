"""What a module will cost, before anything is compiled."""

from __future__ import annotations

from math import prod

import numpy as np
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.kernels import cost
from tvmopt.lowering.kernel_cache import LowerOptions
from tvmopt.lowering.sites import DEFAULTS, lower
from tvmopt.report import Report
from tvmopt.targets.description import CpuTarget


def predict_layers(
    mod: tvm.IRModule, target: CpuTarget, options: LowerOptions = DEFAULTS
) -> dict[str, float]:
    """Return the predicted cycles of one core for each layer, by name, in the order they run.

    A layer is a kernel that the module lowers to; its name is that of the operator it stands for.
    Kernels without a cost of their own count as the bytes that they move.

    Args:
        mod: A canonical module, with or without compressed layers.
        target: The machine.
        options: What the user switched.
    """
    lowered = lower(mod, target, Report(), options)
    found: dict[str, float] = {}
    for var, value in ir.bindings(lowered["main"]):
        if not ir.is_call_to(value, "relax.call_tir"):
            continue
        kernel = lowered[value.args[0]]
        known = (kernel.attrs or {}).get("tvmopt.cycles")
        spent = float(known) if known is not None else _moved(value, target)
        found[var.name] = found.get(var.name, 0.0) + spent
    return found


def _moved(call: relax.Call, target: CpuTarget) -> float:
    """Return the cycles of reading and writing all that a kernel touches."""
    tensors = [*call.args[1].fields, call]
    size = sum(_bytes(tensor) for tensor in tensors)
    return cost.CALL_CYCLES + cost.stream_cycles(size, target)


def _bytes(tensor: relax.Expr) -> int:
    if isinstance(tensor.ty, relax.TupleType):
        return sum(
            prod(int(extent) for extent in field.shape) * np.dtype(str(field.dtype)).itemsize
            for field in tensor.ty.fields
        )
    return prod(ir.static_shape(tensor)) * np.dtype(ir.dtype(tensor)).itemsize
