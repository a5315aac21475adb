"""Schedule the PrimFuncs that no kernel generator claims."""

from __future__ import annotations

import re

import tvm
import tvm_ffi
from tvm import tirx

from tvmopt.schedule.approximate_math import approximate_math
from tvmopt.schedule.emit import emit
from tvmopt.schedule.expressions import structural_key
from tvmopt.schedule.stages import read
from tvmopt.targets.description import CpuTarget


def schedule_rest(mod: tvm.IRModule, target: CpuTarget) -> tvm.IRModule:
    """Return ``mod`` with every PrimFunc scheduled that does not name its kernel yet."""
    done: dict[tvm_ffi.StructuralKey, tirx.PrimFunc] = {}
    scheduled = {}
    for name, func in mod.functions_items():
        if isinstance(func, tirx.PrimFunc) and "tvmopt.kernel" not in (func.attrs or {}):
            key = structural_key(func)
            if key not in done:
                done[key] = schedule(func, target)
            kernel = _kernel_name(name.name_hint, func)
            scheduled[name] = done[key].with_attr("tvmopt.kernel", kernel)
    result = tvm.IRModule(dict(mod.functions_items()), attrs=mod.attrs)
    for name, func in scheduled.items():
        result[name] = func
    return result


def schedule(func: tirx.PrimFunc, target: CpuTarget) -> tirx.PrimFunc:
    """Return ``func`` with loops for ``target``; as it is where it has no form that is known."""
    func = approximate_math(func)
    program = read(func)
    return func if program is None else emit(program, target)


_TYPES = {"float": "f", "int": "s", "uint": "u", "bool": "b"}


def _kernel_name(name: str, func: tirx.PrimFunc) -> str:
    """Return, for a function ``fused_tir_exp_add2`` of float32, ``f32_exp_add``."""
    parts = re.sub(r"\d+(?=_|$)", "", name).split("_")
    operators = "_".join(part for part in parts if part not in ("fused", "tir", "te"))
    dtype = str(func.params[-1].dtype)
    kind = dtype.rstrip("0123456789")
    return f"{_TYPES.get(kind, kind)}{dtype.removeprefix(kind) or 8}_{operators}"
