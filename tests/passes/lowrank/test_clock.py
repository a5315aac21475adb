"""Mirror of passes/lowrank/clock.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.lowering import predict_layers
from tvmopt.passes.lowrank.clock import Clock
from tvmopt.passes.lowrank.factors import Shape
from tvmopt.targets import CpuTarget

Build = Callable[..., tvm.IRModule]


@pytest.fixture(scope="module")
def call(build: Build) -> relax.Call:
    weight = np.random.default_rng(0).standard_normal((64, 96)).astype(np.float32)
    mod = build(lambda _, x: relax.op.matmul(x, relax.const(weight)), (1, 8, 64))
    return next(value for _, value in ir.bindings(mod["main"]))


def _thin(rank: int) -> tuple[Shape, ...]:
    return ("all", (rank, 1, 1, 64)), ("point", (96, 1, 1, rank))


def test_fewer_weights_are_predicted_to_be_faster(call: relax.Call, here: CpuTarget) -> None:
    clock = Clock(lambda mod: predict_layers(mod, here))
    times = [clock.factors(call, _thin(rank), has_bias=True) for rank in (8, 32, 64)]
    assert times == sorted(times)
    assert times[0] < clock.layer(call, has_bias=True) < times[-1]


def test_the_model_is_asked_once_for_a_shape(call: relax.Call) -> None:
    asked: list[tvm.IRModule] = []

    def predict(mod: tvm.IRModule) -> dict[str, float]:
        asked.append(mod)
        return {f"step{i}": 2.0 for i, _ in enumerate(ir.calls(mod))}

    clock = Clock(predict)
    # Two products, a sum; then no sum.
    assert clock.factors(call, _thin(8), has_bias=True) == 6.0
    assert clock.factors(call, _thin(8), has_bias=True) == 6.0
    assert clock.factors(call, _thin(8), has_bias=False) == 4.0
    assert len(asked) == 2
    assert clock.layer(call, has_bias=False) == 2.0
