"""A KxK convolution as two: a Kx1 of few outputs, and a 1xK.

::

    W: (o, kh, kw, c)    ->    V: (r, kh, 1, c),  F: (o, 1, kw, r)
    W[o, i, j, c] = sum over r of F[o, j, r] V[r, i, c]

Vertical strides, padding and dilation go with V, horizontal ones with F. For the weights alone the
best factors are a truncated SVD of W as a matrix ((o, j), (i, c)). By the outputs there is no
closed form: V starts from that SVD, whitened by the moments that the columns of taps have in the
mean; then F is fitted to V, and V to F, in turns.

Sources: M. Jaderberg, A. Vedaldi and A. Zisserman, "Speeding up convolutional neural networks with
low rank expansions", BMVC 2014, scheme 2 and its fit of outputs; C. Tai, T. Xiao, Y. Zhang, X. Wang
and W. E, "Convolutional neural networks with low-rank regularization", ICLR 2016, section 2, for
the closed form. The start, and V by conjugate gradients, are derived here.
"""

from __future__ import annotations

import numpy as np

from tvmopt.passes.lowrank.factors import Factor, Shape
from tvmopt.passes.lowrank.fit import conjugate_gradients, energy_of, reduced_rank
from tvmopt.passes.lowrank.problem import Problem
from tvmopt.passes.lowrank.rank import rank_at

_STEPS = 12  # of conjugate gradients, each time that V is fitted


class SpatialLine:
    """The spatial separations of a layer; a ``Line``."""

    method = "spatial"

    def __init__(self, problem: Problem) -> None:
        """Decompose the layer, whose kernel is more than 1 wide both ways."""
        self._problem = problem
        (self._kh, self._kw), c = problem.kernel, problem.inputs
        wanted = self._by_columns(problem.wanted)  # (o, kw, kh * c)
        metric = self._moments_by_columns(problem.metric)  # (kw, kh * c, kw, kh * c)
        mean = np.einsum("jajb->ab", metric) / self._kw
        columns = wanted.reshape(-1, self._kh * c)
        _, self._vertical, self._values = reduced_rank(columns, mean)
        self._fitted = _Seen(wanted, metric, self._vertical)
        measured = self._moments_by_columns(problem.measured)
        self._judged = _Seen(wanted, measured, self._vertical)
        self._whole = energy_of(problem.wanted, problem.measured)
        self._errors: dict[int, float] = {}

    @property
    def most(self) -> int:
        """The largest rank."""
        return len(self._values)

    def error(self, rank: int) -> float:
        """Return the error that factors of a rank add, before they are refined."""
        if rank not in self._errors:
            row = self._fitted.solve(rank)
            error = self._whole + self._judged.objective(row, rank)
            self._errors[rank] = max(error, 0.0) / self._problem.spread
        return self._errors[rank]

    def rank_at(self, energy: float) -> int:
        """Return the least rank that holds a share of the squared singular values."""
        return rank_at(self._values, energy)

    def shapes(self, rank: int) -> tuple[Shape, ...]:
        """Return what decides the time of factors of a rank."""
        c, o = self._problem.inputs, self._problem.outputs
        return ("vertical", (rank, self._kh, 1, c)), ("horizontal", (o, 1, self._kw, rank))

    def solve(self, rank: int, sweeps: int) -> tuple[Factor, ...]:
        """Return factors of a rank, refined by going over them ``sweeps`` times."""
        problem, metric = self._problem, self._moments_by_columns(self._problem.metric)
        wanted, vertical = self._by_columns(problem.wanted), self._vertical[:rank]
        row = self._fitted.solve(rank)
        for _ in range(sweeps):
            vertical = self._fit_vertical(row, vertical)
            row = _Seen(wanted, metric, vertical).solve(rank)
        first, last = (shape for _, shape in self.shapes(rank))
        return (
            Factor(part="vertical", weight=vertical.reshape(first)),
            Factor(part="horizontal", weight=row.reshape(last)),
        )

    def describe(self, rank: int) -> str:
        """Return what people call it."""
        return f"{self._kh}x1 and 1x{self._kw} of rank {rank} of {self.most}"

    def _fit_vertical(self, row: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Return V, (r, kh * c), nearer to the best for F as (o, kw * r)."""
        problem, rank = self._problem, len(start)
        f = row.reshape(problem.outputs, self._kw, rank)
        shape = (problem.outputs, self._kw, self._kh, problem.inputs)

        def back(weights: np.ndarray) -> np.ndarray:
            seen = self._by_columns(weights @ problem.metric)
            return np.tensordot(f, seen, ((0, 1), (0, 1)))

        def apply(vertical: np.ndarray) -> np.ndarray:
            whole = np.tensordot(f, vertical, 1).reshape(shape).transpose(0, 2, 1, 3)
            return back(whole.reshape(problem.wanted.shape))

        return conjugate_gradients(apply, back(problem.wanted), start, _STEPS)

    def _by_columns(self, weight: np.ndarray) -> np.ndarray:
        """Return (o, k) as (o, kw, kh * c)."""
        taps = weight.reshape(len(weight), self._kh, self._kw, -1)
        return taps.transpose(0, 2, 1, 3).reshape(len(weight), self._kw, -1)

    def _moments_by_columns(self, moments: np.ndarray) -> np.ndarray:
        """Return (k, k) as (kw, kh * c, kw, kh * c)."""
        kh, kw, c = self._kh, self._kw, self._problem.inputs
        taps = moments.reshape(kh, kw, c, kh, kw, c).transpose(1, 0, 2, 4, 3, 5)
        return taps.reshape(kw, kh * c, kw, kh * c)


class _Seen:
    """What the 1xK sees of the inputs through V, for every rank of it."""

    def __init__(self, wanted: np.ndarray, moments: np.ndarray, vertical: np.ndarray) -> None:
        """Take t by columns, H by columns, and V (p, kh * c)."""
        seen = np.tensordot(moments, vertical, ((3,), (1,)))  # (kw, kh * c, kw, p)
        self._pull = np.tensordot(wanted, seen, ((1, 2), (0, 1)))  # (o, kw, p)
        self._gram = np.tensordot(vertical, seen, ((1,), (1,))).swapaxes(0, 1)  # (kw, p, kw, p)

    def solve(self, rank: int) -> np.ndarray:
        """Return the best F for the first ``rank`` of V, (o, kw * rank)."""
        gram, pull = self._at(rank)
        return np.linalg.solve(gram, pull.T).T

    def objective(self, row: np.ndarray, rank: int) -> float:
        """Return by how much F, (o, kw * rank), changes the error that all zeros have."""
        gram, pull = self._at(rank)
        return float(np.sum((row @ gram) * row) - 2.0 * np.sum(row * pull))

    def _at(self, rank: int) -> tuple[np.ndarray, np.ndarray]:
        gram, pull = self._gram[:, :rank, :, :rank], self._pull[:, :, :rank]
        size = gram.shape[0] * rank
        return gram.reshape(size, size), pull.reshape(len(pull), size)
