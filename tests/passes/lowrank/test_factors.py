"""Mirror of passes/lowrank/factors.py: nets of factors give what the layer gave."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.passes.lowrank import factors as lowrank
from tvmopt.passes.lowrank.factors import Factor, factor_names, product
from tvmopt.passes.lowrank.fit import Line
from tvmopt.passes.lowrank.problem import plain_problem
from tvmopt.passes.lowrank.separate_spatial import SpatialLine
from tvmopt.passes.lowrank.truncated_svd import SvdLine
from tvmopt.passes.lowrank.tucker import Channels, TuckerLine

Build = Callable[..., tvm.IRModule]
Run = Callable[..., list[np.ndarray]]
LAYOUTS = {"data_layout": "NHWC", "kernel_layout": "OHWI", "out_layout": "NHWC"}
LINES: dict[str, Callable[..., Line]] = {
    "svd": SvdLine,
    "spatial": SpatialLine,
    "tucker": lambda problem: TuckerLine(problem, Channels(problem), problem.inputs),
}


@pytest.mark.parametrize("method", LINES)
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"padding": 1},
        {"strides": (2, 1), "padding": (0, 2, 1, 3)},
        {"strides": 2, "padding": (2, 2, 2, 2), "dilation": (1, 2)},
        {"dilation": (2, 1), "padding": (3, 0, 0, 1)},
    ],
)
def test_full_rank_computes_what_the_convolution_does(
    build: Build, run: Run, method: str, how: dict[str, object]
) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((6, 3, 2, 4)).astype(np.float32)
    line = LINES[method](plain_problem(weight.reshape(6, -1).astype(np.float64), None, (3, 2)))
    factors = line.solve(line.most, 0)
    x = rng.standard_normal((2, 9, 8, 4)).astype(np.float32)

    def layer(data: relax.Expr) -> relax.Call:
        return relax.op.nn.conv2d(data, relax.const(weight), **how, **LAYOUTS)

    (want,) = run(build(lambda _, data: layer(data), x.shape), x)
    (got,) = run(build(lambda bb, data: _factored(bb, layer(data), factors), x.shape), x)
    assert got.shape == want.shape
    # Factors are orthonormal but for one, so that what is between is no longer than the input:
    # each of up to three sums of at most 24 terms rounds by 24 * 2^-24 of |x| |W|, here below 30.
    assert np.max(np.abs(got - want)) <= 3 * 24 * 2**-24 * 30


def test_a_matmul_becomes_two(build: Build, run: Run) -> None:
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((8, 5)).astype(np.float32)
    line = SvdLine(plain_problem(weight.T.astype(np.float64), None, (1, 1)))
    x = rng.standard_normal((2, 3, 8)).astype(np.float32)

    def body(builder: relax.BlockBuilder, data: relax.Var) -> relax.Expr:
        call = builder.normalize(relax.op.matmul(data, relax.const(weight)))
        return _factored(builder, call, line.solve(5, 0))

    mod = build(body, x.shape)
    shapes = [ir.shape(value.args[1]) for _, value in ir.bindings(mod["main"])]
    assert shapes == [(8, 5), (5, 5)]
    (got,) = run(mod, x)
    # Two sums of at most 8 terms, |x| |W| below 15.
    assert np.max(np.abs(got - x @ weight)) <= 2 * 8 * 2**-24 * 15


def _factored(
    builder: relax.BlockBuilder, call: relax.Call, factors: tuple[Factor, ...]
) -> relax.Expr:
    return lowrank.build(builder.normalize(call), factors, "layer", builder.emit)


def test_earlier_factors_are_named_after_the_layer(build: Build) -> None:
    weight = np.random.default_rng(2).standard_normal((4, 27))
    problem = plain_problem(weight, None, (3, 3))
    factors = TuckerLine(problem, Channels(problem), 2).solve(2, 0)

    def body(builder: relax.BlockBuilder, data: relax.Var) -> relax.Expr:
        kernel = relax.const(np.zeros((4, 3, 3, 3), np.float32))
        return _factored(builder, relax.op.nn.conv2d(data, kernel, **LAYOUTS), factors)

    mod = build(body, (1, 5, 5, 3))
    names = [var.name for var, _ in ir.bindings(mod["main"])]
    assert names[:2] == ["layer__first", "layer__core"]
    assert set(names[:2]) | {"layer"} == set(factor_names("layer"))


def test_the_product_of_factors_is_one_kernel() -> None:
    rng = np.random.default_rng(3)
    down = Factor(part="vertical", weight=rng.standard_normal((2, 3, 1, 4)))
    right = Factor(part="horizontal", weight=rng.standard_normal((5, 1, 2, 2)))
    whole = np.einsum("ojr,ric->oijc", right.weight[:, 0], down.weight[:, :, 0])
    assert np.allclose(product([down, right]), whole.reshape(5, -1))
