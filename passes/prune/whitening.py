"""Coordinates in which all weights of a block weigh about alike.

The curvature of a squared error by the weights of a layer is nearly the product of two: that of its
inputs, H = mean x x^T, and for each output how much the error feels it, s. So a row w of weights,
those that are free, is written as ``w = w0 + (z / s) L^-1`` with ``H = L L^T`` for its free inputs:
rows with the same zeros share a factor. Biases, and layers whose factors would be too large, are
scaled one by one, by the root of the mean square of their derivatives.

Source: J. Martens and R. Grosse, "Optimizing neural networks with Kronecker-factored approximate
curvature", ICML 2015, section 3, of which the input's factor is taken whole and the output's as a
diagonal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular

from tvmopt.passes.prune.block_net import Trained
from tvmopt.passes.prune.refit_rows import same_places

_MOST = 1 << 25  # float64 of all factors of a constant: 256 MiB
_RIDGE = 0.01  # of the mean diagonal, as everywhere inputs are whitened


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Rows:
    """Rows that have the same zeros.

    Attributes:
        rows: Their numbers.
        places: The inputs that are not zero.
        factor: (places, places) float64, the lower L of ``H = L L^T``.
        scale: (rows,), s.
    """

    rows: np.ndarray
    places: np.ndarray
    factor: np.ndarray
    scale: np.ndarray


class Coordinates:
    """The z of one constant."""

    def __init__(self, one: Trained, squares: np.ndarray, inputs: np.ndarray | None) -> None:
        """Look at its curvature.

        Args:
            one: The constant.
            squares: Mean square of its derivatives, of its shape.
            inputs: (k, k), mean x x^T of the layer's rows of inputs; None scales one by one.
        """
        self._one = one
        small = 1e-6 * float(squares.max()) or 1.0
        self._single = 1.0 / np.sqrt(squares + small)
        self._rows: list[_Rows] | None = None
        if inputs is not None and one.is_weight:
            groups = list(same_places(one.rows(one.free)))
            if sum(len(places) ** 2 for _, places in groups) <= _MOST:
                self._rows = [
                    self._factored(rows, places, squares, inputs) for rows, places in groups
                ]
        self.size = int(one.free.sum())

    def _factored(
        self, rows: np.ndarray, places: np.ndarray, squares: np.ndarray, inputs: np.ndarray
    ) -> _Rows:
        part = inputs[np.ix_(places, places)].astype(np.float64)
        diagonal = np.einsum("kk->k", part)
        mean = float(diagonal.mean()) or 1.0
        diagonal += _RIDGE * mean
        felt = self._one.rows(squares)[np.ix_(rows, places)].mean(axis=1) / mean
        scale = np.sqrt(felt + (1e-6 * float(felt.max()) or 1.0))
        factor = np.linalg.cholesky(part)
        return _Rows(rows=rows, places=places, factor=factor, scale=scale)

    def values(self, z: np.ndarray) -> np.ndarray:
        """Return the constant at coordinates z, (size,); its zeros stay."""
        one = self._one
        if self._rows is None:
            result = one.value.astype(np.float64)
            result[one.free] += z * self._single[one.free]
            return result.astype(np.float32)
        rows, start = one.rows(one.value).astype(np.float64), 0
        for part in self._rows:
            stop = start + len(part.rows) * len(part.places)
            step = z[start:stop].reshape(len(part.rows), -1).T
            step = solve_triangular(part.factor, step, trans="T", lower=True).T
            rows[np.ix_(part.rows, part.places)] += step / part.scale[:, None]
            start = stop
        return one.unrowed(rows)

    def gradient(self, by_values: np.ndarray) -> np.ndarray:
        """Return the derivative by z, (size,), of that by the constant."""
        one = self._one
        if self._rows is None:
            return (by_values * self._single)[one.free]
        rows, found = one.rows(by_values), []
        for part in self._rows:
            wide = rows[np.ix_(part.rows, part.places)] / part.scale[:, None]
            found.append(solve_triangular(part.factor, wide.T, lower=True).T.reshape(-1))
        return np.concatenate(found) if found else np.zeros(0)


def split(z: np.ndarray, coordinates: Sequence[Coordinates]) -> Iterator[np.ndarray]:
    """Yield each constant at coordinates z of all, in order."""
    start = 0
    for one in coordinates:
        yield one.values(z[start : start + one.size])
        start += one.size
