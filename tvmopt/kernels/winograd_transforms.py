"""The transforms of Winograd's convolution as straight-line vector arithmetic.

Source: A. Lavin and S. Gray, "Fast algorithms for convolutional neural networks", CVPR 2016,
section 4: the points 0, 1, -1 and infinity for F(2, 3), with 2 and -2 for F(4, 3).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tvmopt.kernels.vector import Expr, Vector, bind, wrapping

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


# In integers: row i of G times WEIGHT_FACTOR[i] is integral, and line i of the scaled output is
# 3 (F(4, 3) only) times 2**SCALED_SHIFT[i] times the true one.
WEIGHT_FACTOR = {2: np.array([1, 2, 2, 1]), 4: np.array([4, 6, 6, 24, 24, 1])}
SCALED_SHIFT = {2: (1, 1), 4: (3, 2, 1, 1)}
SCALED_OUTPUT_TRANSFORM = {
    2: np.array([[2, 1, 1, 0], [0, 1, -1, -2]]),
    4: np.array(
        [[6, 4, 4, 1, 1, 0], [0, 2, -2, 1, -1, 0], [0, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 6]]
    ),
}


def transform_weight_scaled(weight: np.ndarray, m: int) -> np.ndarray:
    """Return G g G^T of every kernel times the factors of its row and its column, exactly.

    Args:
        weight: Integers (o, 3, 3, c).
        m: Edge of an output tile, 2 or 4.

    Returns:
        ((m + 2)^2, c, o), int64.
    """
    o, _, _, c = weight.shape
    scaled = np.rint(WEIGHT_TRANSFORM[m] * WEIGHT_FACTOR[m][:, None]).astype(np.int64)
    taps = weight.astype(np.int64).transpose(1, 2, 3, 0).reshape(9, c * o)
    return (np.kron(scaled, scaled) @ taps).reshape(-1, c, o)


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


def transform_output_scaled(m: int, vector: Vector, get: Get, put: Put) -> None:
    """Emit S q S^T, S the scaled output transform, modulo 2**32; q = get(i, j) of int32."""
    _both_sides(m + 2, m, lambda q: _scaled_output_line(m, vector, q), get, put)


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
    two, four, five = (vector.splat(x) for x in (2, 4, 5))
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
    two, four, eight = (vector.splat(x) for x in (2, 4, 8))
    near, near_gap = bind(q[1] + q[2]), bind(q[1] - q[2])
    far, far_gap = bind(q[3] + q[4]), bind(q[3] - q[4])
    return [
        q[0] + near + far,
        near_gap + two * far_gap,
        near + four * far,
        near_gap + eight * far_gap + q[5],
    ]


def _scaled_output_line(m: int, vector: Vector, q: list[Expr]) -> list[Expr]:
    def plus(*terms: Expr) -> Expr:
        total = terms[0]
        for term in terms[1:]:
            total = wrapping("add", total, term)
        return total

    def minus(a: Expr, b: Expr) -> Expr:
        return wrapping("sub", a, b)

    def times(factor: int, value: Expr) -> Expr:
        return wrapping("mul", value, vector.splat(factor))

    if m == 2:
        return [
            plus(times(2, q[0]), q[1], q[2]),
            minus(minus(q[1], q[2]), times(2, q[3])),
        ]
    near, near_gap = bind(plus(q[1], q[2])), bind(minus(q[1], q[2]))
    far, far_gap = bind(plus(q[3], q[4])), bind(minus(q[3], q[4]))
    return [
        plus(times(6, q[0]), times(4, near), far),
        plus(times(2, near_gap), far_gap),
        plus(near, far),
        plus(near_gap, times(2, far_gap), times(6, q[5])),
    ]
