"""Schedule the PrimFuncs that no kernel generator claims."""

from __future__ import annotations

import re

import tvm
import tvm_ffi
from tvm import tirx

from tvmopt.schedule.approximate_math import approximate_math
from tvmopt.schedule.emit import emit
from tvmopt.schedule.stages import read
from tvmopt.targets.description import CpuTarget


def schedule_rest(mod: tvm.IRModule, target: CpuTarget) -> tvm.IRModule:
    """Return ``mod`` with every PrimFunc scheduled that does not name its kernel yet."""
    done: dict[tvm_ffi.StructuralKey, tirx.PrimFunc] = {}
    scheduled = {}
    for name, func in mod.functions_items():
        if isinstance(func, tirx.PrimFunc) and "tvmopt.kernel" not in (func.attrs or {}):
            key = tvm_ffi.StructuralKey(func)
            if key not in done:
                done[key] = _schedule(func, target)
            scheduled[name] = done[key].with_attr("tvmopt.kernel", _kernel_name(name.name_hint))
    result = tvm.IRModule(dict(mod.functions_items()), attrs=mod.attrs)
    for name, func in scheduled.items():
        result[name] = func
    return result


def _schedule(func: tirx.PrimFunc, target: CpuTarget) -> tirx.PrimFunc:
    func = approximate_math(func)
    program = read(func)
    return func if program is None else emit(program, target)


def _kernel_name(name: str) -> str:
    return re.sub(r"\d+$", "", name)
