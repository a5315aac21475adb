"""Mirror of passes/prune/plain_tap.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.calibration import Feed, Tap
from tvmopt.passes.prune.plain_tap import plain_tap

Build = Callable[..., tvm.IRModule]
op = relax.op
WIDTH = 6


class _Compiles:
    """A tap that says what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(
        self, _mod: tvm.IRModule, names: Sequence[str]
    ) -> Callable[[Feed], dict[str, np.ndarray]]:
        self.asked.append(list(names))
        return lambda _feed: {}


def _net(build: Build, middle: Callable[[relax.Expr], relax.Expr]) -> tvm.IRModule:
    weight = np.random.default_rng(0).standard_normal((WIDTH, WIDTH)).astype(np.float32)

    def body(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        first = builder.emit(op.matmul(x, relax.const(weight)), "first")
        between = builder.emit(middle(first), "between")
        return builder.emit(op.nn.relu(between), "last")

    return ir.unique_names(build(body, (2, WIDTH)))


def test_values_are_those_that_compile(build: Build, tap: Tap) -> None:
    mod, compiles = _net(build, lambda x: op.nn.softmax(x, axis=-1)), _Compiles()
    feed = {"x0": np.random.default_rng(1).standard_normal((2, WIDTH)).astype(np.float32)}
    names = ["last", "first"]
    found, wanted = plain_tap(compiles, 3)(mod, names)(feed), tap(mod, names)(feed)
    assert not compiles.asked
    assert list(found) == names
    for name in names:
        # Sums of 6 float32 products, and a softmax of shares below 1.
        assert np.allclose(found[name], wanted[name], rtol=1e-5, atol=1e-6)


def test_inputs_go_by_their_place(build: Build) -> None:
    mod = _net(build, op.nn.relu)
    x = np.ones((2, WIDTH), np.float32)
    run = plain_tap(_Compiles(), 1)(mod, ["last"])
    assert np.array_equal(run({"the model's own": x})["last"], run({"x0": x})["last"])


def test_an_operator_that_is_not_known_is_compiled(build: Build) -> None:
    compiles = _Compiles()
    plain_tap(compiles, 1)(_net(build, lambda x: op.cumsum(x, axis=0)), ["last"])
    plain_tap(compiles, 1)(_net(build, lambda x: op.astype(x, "float32")), ["first"])
    assert compiles.asked == [["last"], ["first"]]


def test_other_numbers_than_float32_are_compiled(build: Build) -> None:
    compiles = _Compiles()

    def body(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        return builder.emit(op.add(x, relax.const(np.int32(1))), "one_more")

    plain_tap(compiles, 1)(build(body, (2,), dtype="int32"), ["one_more"])
    assert compiles.asked == [["one_more"]]


@pytest.mark.parametrize(("batches", "is_compiled"), [(10**8, False), (10**9, True)])
def test_much_work_is_compiled(build: Build, batches: int, *, is_compiled: bool) -> None:
    compiles = _Compiles()
    # 72 multiply-adds, and 24 numbers more, a batch: 10 and 96 times 10^9.
    plain_tap(compiles, batches)(_net(build, op.nn.relu), ["last"])
    assert bool(compiles.asked) == is_compiled
