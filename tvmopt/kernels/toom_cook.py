"""Short convolutions along a line with the fewest multiplications: F(m, r) for any m and r.

``m`` outputs of ``r`` taps need ``n = m + r - 1`` products: y = A^T [(G g) * (B^T d)], where d are
the n inputs that the outputs read and g the taps.

Source: A. L. Toom (1963) and S. A. Cook (1966), by evaluation at n - 1 points and infinity, as S.
Winograd, "Arithmetic complexity of computations" (1980), turns them into filters by transposition;
the matrices in the form of A. Lavin and S. Gray, "Fast algorithms for convolutional neural
networks", CVPR 2016. That the points are powers of two, so that A and B are exact in float32, and
the order in which they are taken (error measured for each) are derived here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np

from tvmopt.kernels.vector import Expr, Vector, bind

POINTS = tuple(Fraction(p) for p in ("0", "1", "-1", "2", "-2", "1/2", "-1/2", "4", "-4", "1/4"))


@dataclass(frozen=True, slots=True, eq=False)
class Transforms:
    """The matrices of F(m, r), float64.

    Attributes:
        weight: G, (n, r).
        input: B^T, (n, n), exact in float32.
        output: A^T, (m, n), exact in float32.
    """

    weight: np.ndarray
    input: np.ndarray
    output: np.ndarray


@cache
def transforms(m: int, taps: int) -> Transforms:
    """Return the matrices of F(m, taps); m + taps - 2 is at most ``len(POINTS)``."""
    count = m + taps - 2
    assert count <= len(POINTS), f"F({m}, {taps}) takes {count} points, there are {len(POINTS)}"
    points = POINTS[:count]
    weight, rows = [], []
    for point in points:
        others = [other for other in points if other != point]
        scale = _product([point - other for other in others])
        weight.append([point**k / scale for k in range(taps)])
        rows.append([*_polynomial(others), Fraction(0)])
    weight.append([Fraction(int(k == taps - 1)) for k in range(taps)])
    rows.append(_polynomial(points))
    output = [[*(p**i for p in points), Fraction(int(i == m - 1))] for i in range(m)]
    return Transforms(*(np.array(matrix, dtype=np.float64) for matrix in (weight, rows, output)))


def apply(matrix: np.ndarray, vector: Vector, values: Sequence[Expr]) -> list[Expr]:
    """Emit ``matrix @ values``; two rows that differ in signs alone share their sums.

    Args:
        matrix: (rows, columns), exact in float32.
        vector: The type of the values.
        values: One for each column.
    """
    results: dict[int, Expr] = {}
    for i, row in enumerate(matrix):
        if i in results:
            continue
        twin = _twin(matrix, i, results)
        if twin is None:
            results[i] = bind(_sum(vector, row, values))
            continue
        same = np.where(row == matrix[twin], row, 0.0)
        plus, minus = bind(_sum(vector, same, values)), bind(_sum(vector, row - same, values))
        results[i], results[twin] = bind(plus + minus), bind(plus - minus)
    return [results[i] for i in range(len(matrix))]


def _twin(matrix: np.ndarray, i: int, done: dict[int, Expr]) -> int | None:
    """Return a later row that has row i's magnitudes, with some signs equal and some not."""
    for j in range(i + 1, len(matrix)):
        alike = j not in done and np.array_equal(np.abs(matrix[i]), np.abs(matrix[j]))
        if alike and not np.array_equal(np.abs(matrix[i] + matrix[j]), 2 * np.abs(matrix[i])):
            return j if np.any((matrix[i] == matrix[j]) & (matrix[i] != 0)) else None
    return None


def _sum(vector: Vector, row: np.ndarray, values: Sequence[Expr]) -> Expr:
    total = None
    # Factors of one first: what follows is one multiply-add for each term.
    for j in sorted(map(int, np.flatnonzero(row)), key=lambda j: abs(row[j]) != 1.0):
        factor = float(row[j])
        if total is None:
            total = values[j] if factor == 1.0 else values[j] * vector.splat(factor)
        elif abs(factor) == 1.0:
            total = total + values[j] if factor > 0 else total - values[j]
        else:
            total = total + values[j] * vector.splat(factor)
    return vector.splat(0.0) if total is None else total


def _product(factors: Sequence[Fraction]) -> Fraction:
    total = Fraction(1)
    for factor in factors:
        total *= factor
    return total


def _polynomial(roots: Sequence[Fraction]) -> list[Fraction]:
    """Return the coefficients of prod (x - root), the constant first."""
    out = [Fraction(1)]
    for root in roots:
        out = [a - root * b for a, b in zip([Fraction(0), *out], [*out, Fraction(0)], strict=True)]
    return out
