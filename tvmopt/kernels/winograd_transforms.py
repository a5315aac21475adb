"""The transforms of Winograd's convolution as straight-line vector arithmetic.

Source: A. Lavin and S. Gray, "Fast algorithms for convolutional neural networks", CVPR 2016,
section 4: the points 0, 1, -1 and infinity for F(2, 3), with 2 and -2 for F(4, 3).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tvmopt.kernels.vector import Expr, Vector, bind

# G of each tile's edge: transformed weights are G g G^T.
WEIGHT_TRANSFORM = {
    2: np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]]),
    4: np.array(
        [
            [1 / 4, 0, 0],
            [-1 / 6, -1 / 6, -1 / 6],
            [-1 / 6, 1 / 6, -1 / 6],
            [1 / 24, 1 / 12, 1 / 6],
            [1 / 24, -1 / 12, 1 / 6],
            [0, 0, 1],
        ]
    ),
}

# B^T and A^T, which the functions below apply with shared terms; tests and the error estimate use
# the matrices themselves.
INPUT_TRANSFORM = {
    2: np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]),
    4: np.array(
        [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ]
    ),
}
OUTPUT_TRANSFORM = {
    2: np.array([[1, 1, 1, 0], [0, 1, -1, -1]]),
    4: np.array(
        [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
    ),
}


def transform_weight(weight: np.ndarray, m: int) -> np.ndarray:
    """Return G g G^T of every kernel, rounded once to float32.

    Args:
        weight: (o, 3, 3, c).
        m: Edge of an output tile, 2 or 4.

    Returns:
        ((m + 2)^2, c, o), float32.
    """
    o, _, _, c = weight.shape
    both = np.kron(WEIGHT_TRANSFORM[m], WEIGHT_TRANSFORM[m])
    taps = weight.astype(np.float64).transpose(1, 2, 3, 0).reshape(9, c * o)
    return (both @ taps).astype(np.float32).reshape(-1, c, o)


Get = Callable[[int, int], Expr]
Put = Callable[[int, int, Expr], None]


def transform_input(m: int, vector: Vector, get: Get, put: Put) -> None:
    """Emit B^T d B for d = get(i, j), i and j below m + 2; element (i, j) goes to put."""
    _both_sides(m + 2, m + 2, lambda d: _input_line(m, vector, d), get, put)


def transform_output(m: int, vector: Vector, get: Get, put: Put) -> None:
    """Emit A^T q A for q = get(i, j), i and j below m + 2; element (i, j < m) goes to put."""
    _both_sides(m + 2, m, lambda q: _output_line(m, vector, q), get, put)


def _both_sides(
    size: int,
    out: int,
    line: Callable[[list[Expr]], list[Expr]],
    get: Get,
    put: Put,
) -> None:
    """Apply ``line`` to every column, then to every row of what that gave."""
    # 36 values outgrow the registers; LLVM spills them with less traffic than a buffer costs.
    columns = [[bind(x) for x in line([get(i, j) for i in range(size)])] for j in range(size)]
    for i in range(out):
        for j, value in enumerate(line([columns[k][i] for k in range(size)])):
            put(i, j, value)


def _input_line(m: int, vector: Vector, d: list[Expr]) -> list[Expr]:
    if m == 2:
        return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]
    two, four, five = (vector.splat(x) for x in (2.0, 4.0, 5.0))
    even, odd = bind(d[4] - four * d[2]), bind(d[3] - four * d[1])
    near, far = bind(d[4] - d[2]), bind((d[3] - d[1]) * two)
    return [
        d[4] + four * d[0] - five * d[2],
        even + odd,
        even - odd,
        near + far,
        near - far,
        d[5] + four * d[1] - five * d[3],
    ]


def _output_line(m: int, vector: Vector, q: list[Expr]) -> list[Expr]:
    if m == 2:
        return [q[0] + q[1] + q[2], q[1] - q[2] - q[3]]
    two, four, eight = (vector.splat(x) for x in (2.0, 4.0, 8.0))
    near, near_gap = bind(q[1] + q[2]), bind(q[1] - q[2])
    far, far_gap = bind(q[3] + q[4]), bind(q[3] - q[4])
    return [
        q[0] + near + far,
        near_gap + two * far_gap,
        near + four * far,
        near_gap + eight * far_gap + q[5],
    ]
