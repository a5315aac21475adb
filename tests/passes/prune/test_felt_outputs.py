"""Mirror of passes/prune/felt_outputs.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.calibration import Samples, Tap
from tvmopt.frontend.onnx import TensorSpec
from tvmopt.passes.prune.felt_outputs import felt_outputs
from tvmopt.passes.prune.problem import Problem

Build = Callable[..., tvm.IRModule]
op = relax.op
ROWS, WIDTH = 3, 4
HEAD = np.array([2.0, -1.0, 0.5, 0.0], np.float32)


def _net(build: Build, *, odd: bool = False) -> tvm.IRModule:
    """A layer, and one that passes on each of its outputs alone, so many times."""
    weight = np.random.default_rng(0).standard_normal((WIDTH, WIDTH)).astype(np.float32)

    def body(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        y = builder.emit(op.matmul(x, relax.const(weight)), "first")
        y = builder.emit(op.add(y, relax.const(np.ones(WIDTH, np.float32))), "first_sum")
        y = builder.emit(op.cumsum(y, axis=0), "odd") if odd else y
        return builder.emit(op.matmul(y, relax.const(np.diag(HEAD))), "head")

    return ir.unique_names(build(body, (1, ROWS, WIDTH)))


def _samples() -> Samples:
    values = np.random.default_rng(1).standard_normal((20, ROWS, WIDTH)).astype(np.float32)
    port = TensorSpec(name="x0", dtype="float32", shape=(1, ROWS, WIDTH))
    return Samples([port], {"x0": values})


def test_it_is_the_mean_square_of_the_derivatives(build: Build, tap: Tap) -> None:
    felt = felt_outputs(_net(build), _samples(), tap, 0)
    # Each output of the net depends on one of the layer's: its derivative is the head's number, of
    # any sign, and the square of that is exact in float32. What is not felt counts a little.
    squares = np.square(HEAD.astype(np.float64))
    wanted = np.maximum(squares / squares.mean(), 0.01)
    np.testing.assert_allclose(felt["first"], wanted, rtol=1e-12)
    np.testing.assert_allclose(felt["head"], np.ones(WIDTH), rtol=1e-12)


def test_layers_whose_derivatives_are_not_known_are_left_out(build: Build, tap: Tap) -> None:
    felt = felt_outputs(_net(build, odd=True), _samples(), tap, 0)
    assert "first" not in felt or "head" not in felt


def test_a_problem_counts_each_output_so_many_times() -> None:
    rng = np.random.default_rng(2)
    root = rng.standard_normal((5, 5))
    weight, wanted, other = (rng.standard_normal((3, 5)) for _ in range(3))
    problem = Problem(
        weight=weight, wanted=wanted, hessian=root @ root.T + np.eye(5), run=5, has_bias=False
    )
    felt = np.array([4.0, 0.25, 1.0])
    whole = problem.weighted(felt).objective(other * np.sqrt(felt)[:, None])
    change = other - wanted
    each = np.sum((change @ problem.hessian) * change, axis=1)
    np.testing.assert_allclose(whole, felt @ each, rtol=1e-12)
    assert problem.weighted(None) is problem
