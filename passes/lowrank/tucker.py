"""A KxK convolution as three: a 1x1 to few channels, a KxK among few, and a 1x1 back.

::

    W: (o, kh, kw, c)    ->    V: (q, 1, 1, c),  G: (p, kh, kw, q),  U: (o, 1, 1, p)
    W[o, i, j, c] = sum over p, q of U[o, p] G[p, i, j, q] V[q, c]

Strides, padding and dilation go with G. V starts as the leading q directions of the channels,
whitened by the moments that a tap's channels have in the mean (higher-order SVD). For a V, the best
U and G together are a truncated SVD of what the layer is to make of V's outputs; for these the best
V is a linear problem, solved by conjugate gradients; refining takes turns. With H = I this is the
higher-order orthogonal iteration.

Sources: Y.-D. Kim, E. Park, S. Yoo, T. Choi, L. Yang and D. Shin, "Compression of deep
convolutional neural networks for fast and low power mobile applications", ICLR 2016, section 3; L.
De Lathauwer, B. De Moor and J. Vandewalle, "On the best rank-1 and rank-(R1, ..., RN) approximation
of higher-order tensors", SIAM J. Matrix Anal. Appl. 21 (2000), for taking turns. Doing so by the
outputs is derived here.
"""

from __future__ import annotations

import numpy as np

from tvmopt.passes.lowrank.factors import Factor, Shape
from tvmopt.passes.lowrank.fit import conjugate_gradients, energy_of, prefix_errors, reduced_rank
from tvmopt.passes.lowrank.problem import Problem
from tvmopt.passes.lowrank.rank import rank_at

_STEPS = 12  # of conjugate gradients, each time that V is fitted


class Channels:
    """The directions of a layer's input channels, those that matter most first.

    Attributes:
        basis: (c, c): each direction as a row.
        values: (c,), descending: how much each matters.
    """

    def __init__(self, problem: Problem) -> None:
        """Decompose the layer's unfolding by input channels."""
        c, taps = problem.inputs, problem.kernel[0] * problem.kernel[1]
        metric = problem.metric.reshape(taps, c, taps, c)
        mean = np.einsum("tatb->ab", metric) / taps
        _, self.basis, self.values = reduced_rank(problem.wanted.reshape(-1, c), mean)


class TuckerLine:
    """The Tucker-2 forms of a layer with one number of inner inputs; a ``Line``."""

    method = "tucker"

    def __init__(self, problem: Problem, channels: Channels, inner: int) -> None:
        """Decompose the layer for the first ``inner`` directions of its channels."""
        self._problem, self._basis = problem, channels.basis[:inner]
        self._outer, self._core, self._values = self._fit_core(self._basis)
        gram, pull = self._seen(self._basis, problem.measured)
        whole = energy_of(problem.wanted, problem.measured)
        self._errors = prefix_errors(
            self._outer, self._core @ gram @ self._core.T, self._core @ pull.T, whole
        )

    @property
    def most(self) -> int:
        """The largest rank of the outputs."""
        return len(self._values)

    def error(self, rank: int) -> float:
        """Return the error that factors of a rank add, before they are refined."""
        return float(self._errors[rank]) / self._problem.spread

    def rank_at(self, energy: float) -> int:
        """Return the least rank that holds a share of the squared singular values."""
        return rank_at(self._values, energy)

    def shapes(self, rank: int) -> tuple[Shape, ...]:
        """Return what decides the time of factors of a rank."""
        (kh, kw), q = self._problem.kernel, len(self._basis)
        return (
            ("point", (q, 1, 1, self._problem.inputs)),
            ("all", (rank, kh, kw, q)),
            ("point", (self._problem.outputs, 1, 1, rank)),
        )

    def solve(self, rank: int, sweeps: int) -> tuple[Factor, ...]:
        """Return factors of a rank, refined by going over them ``sweeps`` times."""
        basis, outer, core = self._basis, self._outer[:, :rank], self._core[:rank]
        for _ in range(sweeps):
            basis = self._fit_basis(outer, core, basis)
            outer, core, _ = self._fit_core(basis)
            outer, core = outer[:, :rank], core[:rank]
        weights = basis, core, np.ascontiguousarray(outer)
        return tuple(
            Factor(part=part, weight=weight.reshape(shape))
            for (part, shape), weight in zip(self.shapes(rank), weights, strict=True)
        )

    def describe(self, rank: int) -> str:
        """Return what people call it."""
        q, c, o = len(self._basis), self._problem.inputs, self._problem.outputs
        return f"tucker of ranks {q} of {c} and {rank} of {o}"

    def _fit_core(self, basis: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the best U and G, (p, kh * kw * q), for a V, of every rank."""
        gram, pull = self._seen(basis, self._problem.metric)
        return reduced_rank(np.linalg.solve(gram, pull.T).T, gram)

    def _seen(self, basis: np.ndarray, moments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the moments of what V gives at all taps, (m, m), and with t, (o, m)."""
        c, q = self._problem.inputs, len(basis)
        taps = len(moments) // c
        half = np.tensordot(moments.reshape(-1, taps, c), basis, ((2,), (1,)))  # (k, taps, q)
        whole = np.tensordot(basis, half.reshape(taps, c, taps * q), ((1,), (1,)))
        gram = whole.transpose(1, 0, 2).reshape(taps * q, taps * q)
        return gram, self._problem.wanted @ half.reshape(-1, taps * q)

    def _fit_basis(self, outer: np.ndarray, core: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Return V nearer to the best for U and G."""
        problem, q = self._problem, len(start)
        whole = (outer @ core).reshape(-1, q)  # (o * taps, q)

        def back(weights: np.ndarray) -> np.ndarray:
            return whole.T @ (weights @ problem.metric).reshape(-1, problem.inputs)

        def apply(basis: np.ndarray) -> np.ndarray:
            return back((whole @ basis).reshape(problem.wanted.shape))

        return conjugate_gradients(apply, back(problem.wanted), start, _STEPS)
