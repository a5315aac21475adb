"""Mirror of tvmopt/kernels/toom_cook.py."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvmopt.kernels import toom_cook
from tvmopt.kernels.toom_cook import POINTS, transforms
from tvmopt.kernels.vector import Vector, parameters, prim_func

LANES = 8
MOST = len(POINTS) + 2  # m + taps


@settings(derandomize=True, max_examples=40, deadline=None)
@given(data=st.data(), m=st.integers(2, 6))
def test_the_matrices_convolve(data: st.DataObject, m: int) -> None:
    taps = data.draw(st.integers(2, MOST - m))
    rng = np.random.default_rng(100 * m + taps)
    d, g = rng.standard_normal(m + taps - 1), rng.standard_normal(taps)
    matrices = transforms(m, taps)
    got = matrices.output @ ((matrices.weight @ g) * (matrices.input @ d))
    # float64 rounds to 1e-16; 11 places of powers up to 4^10 amplify that by less than 1e5.
    np.testing.assert_allclose(got, np.convolve(d, g[::-1], "valid"), atol=1e-11)


@pytest.mark.parametrize(("m", "taps"), [(2, 3), (4, 3), (4, 5), (6, 6)])
def test_what_the_kernel_multiplies_by_is_exact_in_float32(m: int, taps: int) -> None:
    matrices = transforms(m, taps)
    for matrix in (matrices.input, matrices.output):
        assert np.array_equal(matrix.astype(np.float32), matrix)


def test_more_points_than_there_are_is_refused() -> None:
    with pytest.raises(AssertionError, match=r"F\(6, 7\) takes 11 points, there are 10"):
        transforms(6, 7)


@pytest.mark.parametrize(("m", "taps"), [(2, 2), (2, 5), (4, 3), (6, 5), (6, 6)])
@pytest.mark.parametrize("name", ["input", "output"])
def test_emitted_code_applies_the_matrix(
    kit: SimpleNamespace, name: str, m: int, taps: int
) -> None:
    matrix = getattr(transforms(m, taps), name)
    rows, columns = matrix.shape
    vector = Vector(LANES)

    def body() -> None:
        x, y = parameters(("x", (columns, LANES)), ("y", (rows, LANES)))
        values = [vector.load(x, j * LANES) for j in range(columns)]
        for i, value in enumerate(toom_cook.apply(matrix, vector, values)):
            vector.store(y, value, i * LANES)

    x = np.random.default_rng(m).standard_normal((columns, LANES)).astype(np.float32)
    got = kit.run(prim_func("transform", body, {}), x)
    # At most one rounding for each product, one for each sum: see Higham, section 3.1.
    error = kit.gamma(2 * columns) * (np.abs(matrix) @ np.abs(x.astype(np.float64)))
    kit.Bounded(matrix @ x.astype(np.float64), error + 1e-45).check(got)
