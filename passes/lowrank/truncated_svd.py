"""A layer as two: the same one with fewer outputs, and a 1x1 behind it.

::

    W: (o, kh, kw, c)    ->    B: (r, kh, kw, c),  A: (o, 1, 1, r)

For a kernel of 1 and for a matmul these are two plain products. Cost, by the layer's: r / o + r / k
where k is kh * kw * c. The best factors are a truncated SVD of W L, with no need to refine them.

Sources: J. Xue, J. Li and Y. Gong, "Restructuring of deep neural network acoustic models with
singular value decomposition", Interspeech 2013, for matmuls; X. Zhang, J. Zou, K. He and J. Sun,
"Accelerating very deep convolutional networks for classification and detection", TPAMI 2016,
section 3.1 and 3.3, for convolutions and for fitting outputs; those of ``problem``.
"""

from __future__ import annotations

import numpy as np

from tvmopt.passes.lowrank.factors import Factor, Shape
from tvmopt.passes.lowrank.fit import energy_of, prefix_errors, reduced_rank
from tvmopt.passes.lowrank.problem import Problem
from tvmopt.passes.lowrank.rank import rank_at


class SvdLine:
    """The truncated SVDs of a layer; a ``Line``."""

    method = "svd"

    def __init__(self, problem: Problem) -> None:
        """Decompose the layer."""
        self._problem = problem
        self._outer, self._inner, self._values = reduced_rank(problem.wanted, problem.metric)
        seen = self._inner @ problem.measured
        whole = energy_of(problem.wanted, problem.measured)
        self._errors = prefix_errors(
            self._outer, seen @ self._inner.T, seen @ problem.wanted.T, whole
        )

    @property
    def most(self) -> int:
        """The largest rank."""
        return len(self._values)

    def error(self, rank: int) -> float:
        """Return the error that factors of a rank add."""
        return float(self._errors[rank]) / self._problem.spread

    def rank_at(self, energy: float) -> int:
        """Return the least rank that holds a share of the squared singular values."""
        return rank_at(self._values, energy)

    def shapes(self, rank: int) -> tuple[Shape, ...]:
        """Return what decides the time of factors of a rank."""
        (kh, kw), c, o = self._problem.kernel, self._problem.inputs, self._problem.outputs
        return ("all", (rank, kh, kw, c)), ("point", (o, 1, 1, rank))

    def solve(self, rank: int, _sweeps: int) -> tuple[Factor, ...]:
        """Return the factors of a rank; they are the best already: nothing refines them."""
        first, last = (shape for _, shape in self.shapes(rank))
        return (
            Factor(part="all", weight=self._inner[:rank].reshape(first)),
            Factor(part="point", weight=np.ascontiguousarray(self._outer[:, :rank]).reshape(last)),
        )

    def describe(self, rank: int) -> str:
        """Return what people call it."""
        return f"svd of rank {rank} of {self.most}"
