"""Small graphs, brought to the form that schedule_rest takes, scheduled and run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import tvm
from tvm import relax, tirx

from tvmopt import ir
from tvmopt.schedule.rest import schedule_rest
from tvmopt.targets import CpuTarget, resolve

Build = Callable[..., relax.Expr]


def fused(build: Build, *inputs: np.ndarray) -> tvm.IRModule:
    """Return a graph of ``build`` as lowering hands it to schedule_rest."""
    bb = relax.BlockBuilder()
    params = [
        relax.Var(f"x{i}", relax.TensorType(x.shape, str(x.dtype))) for i, x in enumerate(inputs)
    ]
    with bb.function("main", params):
        with bb.dataflow():
            out = bb.emit_output(bb.normalize(build(*params)))
        bb.emit_func_output(out)
    passes = [
        relax.transform.LegalizeOps(),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
    ]
    return tvm.transform.Sequential(passes)(bb.get())


def prim_funcs(mod: tvm.IRModule) -> list[tirx.PrimFunc]:
    return [func for _, func in mod.functions_items() if isinstance(func, tirx.PrimFunc)]


def execute(mod: tvm.IRModule, target: CpuTarget, *inputs: np.ndarray) -> np.ndarray:
    """Return what "main" gives for ``inputs``: call_tir and names only, one output."""
    named = {
        name.name_hint: func.with_attr("global_symbol", name.name_hint)
        for name, func in mod.functions_items()
        if isinstance(func, tirx.PrimFunc)
    }
    built = tvm.tirx.build(tvm.IRModule(named), target=target.to_tvm()) if named else None
    main = mod["main"]
    values = dict(zip(main.params, map(tvm.runtime.tensor, inputs), strict=True))
    for var, value in ir.bindings(main):
        values[var] = _evaluate(value, built, values)
    return values[main.body.body].numpy()


def _evaluate(value: relax.Expr, built: tvm.runtime.Module, values: dict) -> object:
    if isinstance(value, relax.Var):
        return values[value]
    if isinstance(value, relax.TupleGetItem):
        return values[value.tuple_value][value.index]
    assert ir.is_call_to(value, "relax.call_tir"), value
    (types,) = value.ty_args
    many = isinstance(types, relax.TupleType)
    outputs = [_empty(one) for one in (types.fields if many else [types])]
    args = [_argument(arg, values) for arg in value.args[1].fields]
    built[value.args[0].name_hint](*args, *outputs)
    return outputs if many else outputs[0]


def _argument(arg: relax.Expr, values: dict) -> tvm.runtime.Tensor:
    found = ir.constant(arg)
    return values[arg] if found is None else tvm.runtime.tensor(found)


def _empty(tensor: relax.TensorType) -> tvm.runtime.Tensor:
    shape = tuple(int(extent) for extent in tensor.shape)
    return tvm.runtime.empty(shape, str(tensor.dtype))


@dataclass(frozen=True)
class Rest:
    """What tests do with a graph; the target is this machine unless another is given."""

    target: CpuTarget

    def fused(self, build: Build, *inputs: np.ndarray) -> tvm.IRModule:
        return fused(build, *inputs)

    def scheduled(self, build: Build, *inputs: np.ndarray) -> tvm.IRModule:
        return schedule_rest(fused(build, *inputs), self.target)

    def funcs(self, build: Build, *inputs: np.ndarray) -> list[tirx.PrimFunc]:
        return prim_funcs(self.scheduled(build, *inputs))

    def run(self, build: Build, *inputs: np.ndarray) -> np.ndarray:
        return execute(self.scheduled(build, *inputs), self.target, *inputs)

    def assembly(self, build: Build, *inputs: np.ndarray) -> str:
        (func,) = self.funcs(build, *inputs)
        named = func.with_attr("global_symbol", "main")
        return tvm.tirx.build(named, target=self.target.to_tvm()).inspect_source("s")


@pytest.fixture(scope="session")
def rest() -> Rest:
    # Four cores wherever the tests run, so that work is shared out.
    return Rest(dataclasses.replace(resolve("native"), cores=4))
