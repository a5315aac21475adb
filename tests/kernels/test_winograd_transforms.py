"""Mirror of tvmopt/kernels/winograd_transforms.py."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from tvm import tirx

from tvmopt.kernels.vector import Vector, parameters, prim_func
from tvmopt.kernels.winograd_transforms import (
    INPUT_TRANSFORM,
    OUTPUT_TRANSFORM,
    WEIGHT_TRANSFORM,
    transform_input,
    transform_output,
    transform_weight,
)

LANES = 8


@pytest.mark.parametrize("m", [2, 4])
def test_the_matrices_convolve(m: int) -> None:
    rng = np.random.default_rng(m)
    data, taps = rng.standard_normal((m + 2, m + 2)), rng.standard_normal((3, 3))
    moved = INPUT_TRANSFORM[m] @ data @ INPUT_TRANSFORM[m].T
    weight = WEIGHT_TRANSFORM[m] @ taps @ WEIGHT_TRANSFORM[m].T
    got = OUTPUT_TRANSFORM[m] @ (moved * weight) @ OUTPUT_TRANSFORM[m].T
    seen = np.lib.stride_tricks.sliding_window_view(data, (3, 3))
    # float64 rounds to 1e-16; the transforms amplify that by less than 1e3.
    np.testing.assert_allclose(got, np.einsum("ijkl,kl->ij", seen, taps), atol=1e-12)


@pytest.mark.parametrize("m", [2, 4])
def test_weights_are_rounded_once(kit: SimpleNamespace, m: int) -> None:
    weight = np.random.default_rng(m).standard_normal((5, 3, 3, 4)).astype(np.float32)
    g = WEIGHT_TRANSFORM[m]
    exact = np.einsum("ai,oijc,bj->abco", g, weight.astype(np.float64), g)
    got = transform_weight(weight, m)
    assert got.dtype == np.float32
    error = np.abs(got - exact.reshape(got.shape))
    # Half a unit in the last place of float32, and what float64 lost on the way.
    lost = np.einsum("ai,oijc,bj->abco", np.abs(g), np.abs(weight), np.abs(g)) * 1e-15
    assert (error <= kit.U * np.abs(exact).reshape(got.shape) + lost.reshape(got.shape)).all()


def _run(kit: SimpleNamespace, emit: Callable, m: int, out: int, data: np.ndarray) -> np.ndarray:
    """Run an emitted transform on (m + 2, m + 2, LANES); the result is (out, out, LANES)."""
    vector, size = Vector(LANES), m + 2

    def body() -> None:
        x, y = parameters(("x", data.shape), ("y", (out, out, LANES)))

        def put(i: int, j: int, value: tirx.Expr) -> None:
            vector.store(y, value, (i * out + j) * LANES)

        emit(m, vector, lambda i, j: vector.load(x, (i * size + j) * LANES), put)

    return kit.run(prim_func("transform", body, {}), data)


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize(
    ("emit", "matrices"),
    [(transform_input, INPUT_TRANSFORM), (transform_output, OUTPUT_TRANSFORM)],
    ids=["input", "output"],
)
def test_emitted_transforms_are_the_matrices(
    kit: SimpleNamespace, emit: Callable, matrices: dict[int, np.ndarray], m: int
) -> None:
    data = np.random.default_rng(m).standard_normal((m + 2, m + 2, LANES)).astype(np.float32)
    matrix = matrices[m]

    def both(t: np.ndarray, d: np.ndarray) -> np.ndarray:
        return np.einsum("ai,ijl,bj->abl", t, d, t)

    # On its way through one side a value is rounded 4 times at most: a multiplication, three
    # additions. Two sides: gamma_8 of the absolute values.
    error = kit.gamma(8) * both(np.abs(matrix), np.abs(data.astype(np.float64)))
    got = _run(kit, emit, m, len(matrix), data)
    kit.Bounded(both(matrix, data.astype(np.float64)), error).check(got)
