"""Mirror of tvmopt/lowering/quantized_readers.py."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import forms, ir
from tvmopt.forms import Affine
from tvmopt.lowering.graph import Graph
from tvmopt.lowering.quantized_readers import split_readers

op = relax.op
Emit = Callable[..., relax.Var]
HOW = Affine(scale=np.float32(0.1), zero_point=np.int32(3), dtype="uint8")


def dequantizes(mod: tvm.IRModule) -> list[relax.Var]:
    return [var for var, v in ir.bindings(mod["main"]) if ir.is_call_to(v, "relax.dequantize")]


def gated(kit: SimpleNamespace, *, returned: bool = False) -> tvm.IRModule:
    """Return x * mean(x) of a dequantized x."""

    def body(emit: Emit, q: relax.Var) -> object:
        x = emit(forms.dequantize(q, HOW), "x")
        y = emit(op.multiply(x, emit(op.mean(x, [1, 2], keepdims=True))))
        return (y, x) if returned else y

    return kit.module(body, (1, 4, 4, 8), dtype="uint8")


def test_every_reader_has_its_own(kit: SimpleNamespace) -> None:
    before = gated(kit)
    printed = before.script()
    after = split_readers(before)
    assert before.script() == printed
    graph = Graph.of(after["main"])
    found = dequantizes(after)
    assert sorted(len(graph.users.get(var, [])) for var in found) == [0, 1, 1]
    assert {var.name.rstrip("0123456789_") for var in found} == {"x"}


def test_one_reader_changes_nothing(kit: SimpleNamespace) -> None:
    mod = kit.module(
        lambda emit, q: op.nn.relu(emit(forms.dequantize(q, HOW))), (1, 4, 4, 8), dtype="uint8"
    )
    assert split_readers(mod).same_as(mod)


def test_a_weight_that_two_layers_share_stays_one(kit: SimpleNamespace) -> None:
    weight = relax.const(np.ones((8, 8), np.int8))
    how = Affine(scale=np.float32(0.1), zero_point=np.int32(0), dtype="int8")

    def body(emit: Emit, x: relax.Var) -> relax.Expr:
        w = emit(forms.dequantize(weight, how))
        return op.matmul(emit(op.matmul(x, w)), w)

    mod = kit.module(body, (4, 8))
    assert split_readers(mod).same_as(mod)


@pytest.mark.parametrize("returned", [False, True])
def test_the_values_are_the_same(kit: SimpleNamespace, returned: bool) -> None:
    mod = gated(kit, returned=returned)
    q = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 8)).astype(np.uint8)
    results = []
    for one in (mod, split_readers(mod)):
        machine = relax.VirtualMachine(tvm.compile(one, "llvm"), tvm.cpu())
        found = machine["main"](tvm.runtime.tensor(q))
        results.append([f.numpy() for f in found] if returned else [found.numpy()])
    for ours, theirs in zip(*results, strict=True):
        assert np.array_equal(ours, theirs)
