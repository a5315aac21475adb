"""Mirror of passes/canonicalize/canonicalize_constants.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from tvmopt import ir
from tvmopt.passes.canonicalize.canonicalize_constants import CanonicalizeConstants, shrink
from tvmopt.report import Report

Build = Callable[..., tvm.IRModule]
Run = Callable[..., list[np.ndarray]]


def _add(constant: np.ndarray) -> Callable[[relax.BlockBuilder, relax.Expr], relax.Expr]:
    return lambda bb, x: bb.emit(relax.op.add(x, relax.const(constant.astype("float32"))), "sum")


@pytest.mark.parametrize(
    ("constant", "shape"),
    [
        (np.ones((2, 3, 4)), (1, 1, 1)),
        (np.broadcast_to(np.arange(3)[:, None], (3, 4)), (3, 1)),
        (np.broadcast_to(np.arange(4), (2, 3, 4)), (1, 1, 4)),
    ],
)
def test_written_out_broadcast_is_stored_once(
    build: Build, run: Run, constant: np.ndarray, shape: tuple[int, ...]
) -> None:
    before, report = build(_add(constant), (2, 3, 4)), Report()

    after = CanonicalizeConstants(report)(before)

    assert [ir.shape(call.args[1]) for call in ir.calls(after)] == [shape]
    assert report.decisions[0].reason == (
        f"a constant of shape {constant.shape} varies as {shape} does"
    )
    x = np.arange(24, dtype="float32").reshape(2, 3, 4)
    np.testing.assert_array_equal(run(after, x)[0], run(before, x)[0])


@pytest.mark.parametrize(
    ("constant", "data"),
    [
        (np.arange(12).reshape(3, 4), (3, 4)),  # varies along both axes
        (np.ones(4), (3, 4)),  # a vector is a bias
        (np.ones((3, 4)), (1, 1)),  # the result has its size from the constant
    ],
)
def test_constant_that_must_keep_its_shape_does(
    build: Build, constant: np.ndarray, data: tuple[int, ...]
) -> None:
    before, report = build(_add(constant), data), Report()
    tvm.ir.assert_structural_equal(CanonicalizeConstants(report)(before), before)
    assert report.decisions == []


def test_other_operators_keep_their_constants(build: Build) -> None:
    ones = relax.const(np.ones((4, 4), "float32"))
    before = build(lambda bb, x: bb.emit(relax.op.matmul(x, ones)), (4, 4))
    tvm.ir.assert_structural_equal(CanonicalizeConstants(Report())(before), before)


def test_input_module_is_not_changed(build: Build) -> None:
    before = build(_add(np.ones((2, 3))), (2, 3))
    CanonicalizeConstants(Report())(before)
    tvm.ir.assert_structural_equal(before, build(_add(np.ones((2, 3))), (2, 3)))


@settings(deadline=None, max_examples=100, derandomize=True)
@given(
    dims=st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=4),
    special=st.sampled_from([0.0, -0.0, np.nan, 1.0]),
    seed=st.integers(0, 2**16),
)
def test_shrunk_constant_broadcasts_to_the_old_one(
    dims: list[tuple[int, bool]], special: float, seed: int
) -> None:
    shape = [size for size, _ in dims]
    small = [size if varies else 1 for size, varies in dims]
    value = np.random.default_rng(seed).choice(np.array([0.0, 1.0, special], "float32"), small)
    value = np.array(np.broadcast_to(value, shape))

    shrunk = shrink(value, needed=())

    assert np.broadcast_to(shrunk, shape).tobytes() == value.tobytes()
    assert all(s in (1, v) for s, v in zip(shrunk.shape, small, strict=True))
