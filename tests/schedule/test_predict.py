"""Mirror of tvmopt/schedule/predict.py; figures by hand, and no clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tvm import relax

from tvmopt.kernels import cost

R = relax.op


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def cycles(rest: Any, build: Callable[..., relax.Expr], *inputs: np.ndarray) -> int:
    (func,) = rest.funcs(build, *inputs)
    return int(func.attrs["tvmopt.cycles"]) - cost.CALL_CYCLES


def test_an_elementwise_step_takes_its_operations_and_its_memory(rest: Any) -> None:
    # Two loads, an addition and a store of 4096 floats, two a cycle.
    work = 4 * 4096 / (2 * rest.target.lanes(32))
    assert cycles(rest, R.add, zeros(4096), zeros(4096)) == pytest.approx(work, abs=1)


def test_a_product_and_its_sum_are_one_operation(rest: Any) -> None:
    def fused(x: relax.Expr, y: relax.Expr, z: relax.Expr) -> relax.Expr:
        return R.add(R.multiply(x, y), z)

    def chain(x: relax.Expr) -> relax.Expr:
        for _ in range(8):
            x = fused(x, x, x)
        return x

    # A load, a store, and one operation for each product and its sum.
    work = (2 + 8) * 4096 / (2 * rest.target.lanes(32))
    assert cycles(rest, chain, zeros(4096)) == pytest.approx(work, abs=1)


def test_what_is_the_same_all_along_a_row_is_not_counted(rest: Any) -> None:
    # One load, a multiplication and a store: the factor of a row is loaded before it.
    work = 3 * 4096 / (2 * rest.target.lanes(32))
    assert cycles(rest, R.multiply, zeros(64, 64), zeros(64, 1)) == pytest.approx(work, abs=1)


def test_a_reduction_stores_nothing_on_its_way(rest: Any) -> None:
    long, short = zeros(16, 4096), zeros(16)
    got = cycles(rest, lambda x: R.sum(x, axis=[1]), long)
    # A load and an addition for each element; level 2 feeds no faster than that.
    work = 2 * long.size / (2 * rest.target.lanes(32))
    memory = cost.stream_cycles(long.nbytes + short.nbytes, rest.target)
    assert got == pytest.approx(max(work, memory), abs=1)


def test_where_an_image_is_read_costs_nothing(rest: Any) -> None:
    def resized(x: relax.Expr) -> relax.Expr:
        size = relax.ShapeExpr([16, 16])
        return R.image.resize2d(x, size, layout="NHWC", method="nearest_neighbor")

    # A load and a store of each element, whatever computes its row and its column.
    work = 2 * 16 * 16 * 32 / (2 * rest.target.lanes(32))
    got = cycles(rest, resized, zeros(1, 8, 8, 32))
    assert work <= got <= 3 * work


def test_neighbours_that_lie_apart_are_loaded_one_by_one(rest: Any) -> None:
    x, few = zeros(256, 256), zeros(256, 3)
    together = cycles(rest, lambda x: R.nn.relu(x), x)
    turned = cycles(rest, lambda x: R.permute_dims(x, [1, 0]), x)
    apart = cycles(rest, lambda x: R.nn.relu(R.permute_dims(x, [1, 0])), x)
    assert together < turned < apart
    # Three columns are less than a register: no block of a transpose.
    assert cycles(rest, lambda x: R.permute_dims(x, [1, 0]), few) >= few.size


def test_what_is_written_over_moves_once(rest: Any) -> None:
    target = rest.target
    size = target.l2_bytes // 4 // 4  # floats: half of half of level 2, so that both fit
    same = cycles(rest, lambda x: R.nn.relu(x), zeros(size))
    # A load, a maximum and a store; the memory of one of the two.
    work = 3 * size / (2 * target.lanes(32))
    assert same == pytest.approx(max(work, cost.stream_cycles(4 * size, target)), abs=1)


def test_a_large_result_is_read_before_it_is_written(rest: Any) -> None:
    target = rest.target
    rows, columns = 64, target.l2_bytes // 64
    got = cycles(rest, lambda x, y: R.add(x, y), zeros(rows, 1), zeros(1, columns))
    result = 4 * rows * columns
    assert got >= cost.stream_cycles(2 * result, target)


def test_a_table_costs_what_is_looked_up(rest: Any) -> None:
    def look_up(table: relax.Expr, rows: relax.Expr) -> relax.Expr:
        return R.take(table, rows, axis=0)

    index = np.zeros(4, np.int64)
    short, long = (cycles(rest, look_up, zeros(n, 64), index) for n in (100, 100_000))
    assert short == long
