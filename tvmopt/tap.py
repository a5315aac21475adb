"""Look at what flows through a graph: run it on this machine with inner tensors as outputs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tvm
from threadpoolctl import threadpool_limits
from tvm import relax

from tvmopt import ir, runtime
from tvmopt.calibration import Feed, Tap
from tvmopt.codegen import BuildMeta, build
from tvmopt.lowering import LowerOptions, lower
from tvmopt.report import Report
from tvmopt.targets import CpuTarget, resolve


def native_tap(input_names: Sequence[str], target: CpuTarget | None = None) -> Tap:
    """Return the tap for modules whose first parameters are the inputs ``input_names``, in order.

    Parameters behind them, such as inner tensors where a module is a part of a model, go by their
    own names. Winograd's form is off: what passes see is rounded as plainly as float32 allows.

    Args:
        input_names: The model's own names, which feeds carry.
        target: One that this machine can run; None takes the machine itself.
    """
    machine = target or resolve("native")

    def tap(mod: tvm.IRModule, names: Sequence[str]) -> Callable[[Feed], dict[str, np.ndarray]]:
        more = [param.name for param in mod["main"].params[len(input_names) :]]
        net = _compile(expose(mod, names), machine, (*input_names, *more), tuple(names))

        def run(feed: Feed) -> dict[str, np.ndarray]:
            result = net(feed)
            return result if isinstance(result, dict) else {names[0]: result}

        return run

    return tap


def expose(mod: tvm.IRModule, names: Sequence[str]) -> tvm.IRModule:
    """Return the module whose "main" returns the named bindings or parameters, in order.

    What they do not need is gone; the parameters stay. One name gives a tensor, several a tuple.

    Args:
        mod: Its "main" is a straight line of bindings; their names differ (``ir.unique_names``).
        names: At least one; no name twice.
    """
    func = mod["main"]
    found = {var.name: var for var in [*func.params, *(var for var, _ in ir.bindings(func))]}
    assert 0 < len(names) == len(set(names)), f"names must be distinct, got {names}"
    assert found.keys() >= set(names), f"main has no bindings {set(names) - found.keys()}"
    builder = relax.BlockBuilder()
    env: dict[relax.Var, relax.Expr] = {param: param for param in func.params}
    with builder.function("main", list(func.params)):
        with builder.dataflow():
            for var, value in ir.bindings(func):
                env[var] = builder.emit(ir.substitute(value, env), var.name)
            wanted = [env[found[name]] for name in names]
            output = builder.emit_output(wanted[0] if len(wanted) == 1 else relax.Tuple(wanted))
        builder.emit_func_output(output)
    new = mod.clone()
    new["main"] = relax.analysis.remove_all_unused(builder.finalize()["main"])
    return new


def _compile(
    mod: tvm.IRModule, target: CpuTarget, inputs: tuple[str, ...], outputs: tuple[str, ...]
) -> runtime.Model:
    """Compile and open ``mod``; its file is gone before this returns, its memory with the model."""
    with threadpool_limits(limits=1):
        lowered = lower(mod, target, Report(), LowerOptions(winograd=False))
    meta = BuildMeta(input_names=inputs, output_names=outputs)
    artifact = build(lowered, target, meta, draft=True)
    with tempfile.TemporaryDirectory(prefix="tvmopt-tap-") as folder:
        return runtime.open(artifact.save(Path(folder) / "tap.so"))
