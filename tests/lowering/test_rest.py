"""Mirror of tvmopt/lowering/rest.py."""

from __future__ import annotations

from types import SimpleNamespace

import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.lowering.rest import lower_rest

op = relax.op


def test_operators_become_kernels_and_reshapes_stay_views(kit: SimpleNamespace) -> None:
    def body(emit: object, x: relax.Var) -> relax.Expr:
        y = emit(op.reshape(x, (3, 8)))
        return op.nn.softmax(emit(op.exp(emit(op.negative(y)))), 1)

    result = lower_rest(kit.module(body, (4, 6)), kit.AVX2)
    kinds = [value.op.name for _, value in ir.bindings(result["main"])]
    assert kinds[0] == "relax.reshape"
    assert set(kinds[1:]) == {"relax.call_tir"}
    for _, func in result.functions_items():
        if isinstance(func, tvm.tirx.PrimFunc):
            assert "tvmopt.kernel" in func.attrs


def test_elementwise_neighbours_are_one_kernel(kit: SimpleNamespace) -> None:
    mod = kit.module(
        lambda emit, x: op.tanh(emit(op.add(emit(op.negative(x)), kit.const(6)))), (4, 6)
    )
    result = lower_rest(mod, kit.AVX2)
    calls = [v for _, v in ir.bindings(result["main"]) if ir.is_call_to(v, "relax.call_tir")]
    assert len(calls) == 1
