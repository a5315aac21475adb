"""Round a layer's weights so that its outputs, not its weights, move least.

All here is NumPy on one layer in the terms of ``hessian``: weights (groups, outputs of a group, k),
the bias, if there is one, last of k. The objective of an output's weights q is::

    (q - t) H (q - t)^T        t: the weights wanted, H: the regularized Hessian

``improve`` descends it one weight at a time, each to the best number of the grid while the others
stay, and the bias, which has no grid, to its minimum. No step raises the objective of any output.

Sources: M. Nagel et al., "Up or down? Adaptive rounding for post-training quantization", ICML 2020,
for the objective and for learning, weight by weight, whether to round up or down; their relaxation
and gradient descent are replaced by the coordinate descent of K. Behdin et al., "QuantEase:
optimization-based quantization for language models", arXiv 2309.01885 (2023), section 3, which is
exact a step, needs no step size and no random numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BLOCK = 128  # inputs whose updates to the others are gathered into one matrix product


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WeightGrid:
    """The numbers that a layer's weights may be: ``(integer - zero_point) * scale``.

    Attributes:
        scale: Positive float64 that broadcasts to (groups, outputs of a group, inputs).
        zero_point: Whole numbers that broadcast likewise.
        low: The least integer.
        high: The greatest integer.
        zeros: (groups, outputs of a group, inputs) bool: weights that were pruned, for which the
            only number is 0; None where none were.
    """

    scale: np.ndarray
    zero_point: np.ndarray
    low: int
    high: int
    zeros: np.ndarray | None = None

    def nearest(self, weight: np.ndarray) -> np.ndarray:
        """Return the number of the grid next to each weight."""
        value = self.real(np.rint(weight / self.scale + self.zero_point))
        return value if self.zeros is None else np.where(self.zeros, 0.0, value)

    def real(self, integer: np.ndarray) -> np.ndarray:
        """Return what integers stand for, after they are clipped to the range."""
        return (np.clip(integer, self.low, self.high) - self.zero_point) * self.scale

    def integers(self, value: np.ndarray) -> np.ndarray:
        """Return the integers, int64, that stand for numbers of the grid."""
        return np.rint(value / self.scale + self.zero_point).astype(np.int64)

    def column(self, k: int) -> WeightGrid:
        """Return the grid of the one input ``k``."""
        return self.take(np.full((len(self.scale), 1), k))

    def take(self, order: np.ndarray) -> WeightGrid:
        """Return the grid of some inputs, given by their places: (groups, inputs)."""

        def reorder(values: np.ndarray) -> np.ndarray:
            if values.shape[-1] == 1:
                return values
            return np.take_along_axis(values, order[:, None, :], axis=2)

        return WeightGrid(
            scale=reorder(self.scale),
            zero_point=reorder(self.zero_point),
            low=self.low,
            high=self.high,
            zeros=None if self.zeros is None else reorder(self.zeros),
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rounding:
    """A layer whose weights are to be rounded.

    Attributes:
        wanted: (groups, outputs of a group, k) float64; t above.
        hessian: (groups, k, k) float64, positive definite.
        grid: Of the weights without the bias.
        has_bias: Whether the last of k is the bias.
    """

    wanted: np.ndarray
    hessian: np.ndarray
    grid: WeightGrid
    has_bias: bool

    @property
    def inputs(self) -> int:
        """How many weights an output has, its bias not counted."""
        return self.wanted.shape[-1] - self.has_bias

    def objective(self, q: np.ndarray) -> np.ndarray:
        """Return the objective of each output, (groups, outputs), of weights as ``wanted``."""
        change = q - self.wanted
        return np.sum(np.matmul(change, self.hessian) * change, axis=-1)

    def with_best_bias(self, q: np.ndarray) -> np.ndarray:
        """Return ``q`` with the bias at its minimum while the weights stay."""
        if not self.has_bias:
            return q
        change = (q - self.wanted)[..., :-1]
        pull = np.matmul(change, self.hessian[:, :-1, -1:])[..., 0] / self.hessian[:, -1:, -1]
        best = q.copy()
        best[..., -1] = self.wanted[..., -1] - pull
        return best

    def nearest(self, weight: np.ndarray) -> np.ndarray:
        """Return each weight at the nearest number of the grid, and the bias that then is best."""
        q = weight.copy()
        q[..., : self.inputs] = self.grid.nearest(weight[..., : self.inputs])
        return self.with_best_bias(q)

    def better(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Return for each output the weights of lower objective; ``one``'s where they tie."""
        take = self.objective(one) <= self.objective(other)
        return np.where(take[..., None], one, other)


def improve(
    problem: Rounding, start: np.ndarray, sweeps: int, *, neighbours: bool = False
) -> np.ndarray:
    """Descend the objective from ``start``, coordinate by coordinate.

    Args:
        problem: The layer.
        start: (groups, outputs, k) with the weights on the grid.
        sweeps: How often each weight is looked at; it ends early where nothing moves.
        neighbours: Whether a weight may only be one of the two numbers of the grid around the
            weight wanted, as in AdaRound.

    Returns:
        Weights on the grid whose objective is, for each output, at most that of ``start``.
    """
    best = problem.with_best_bias(start)
    q = best.copy()
    bounds = _neighbours(problem) if neighbours else None
    for _ in range(sweeps):
        before = q.copy()
        _sweep(problem, q, bounds)
        q = problem.with_best_bias(q)
        if np.array_equal(q[..., : problem.inputs], before[..., : problem.inputs]):
            break
    # In exact arithmetic the last is the best; rounding of the gradient must not make that untrue.
    return problem.better(q, best)


def _neighbours(problem: Rounding) -> tuple[np.ndarray, np.ndarray]:
    grid, wanted = problem.grid, problem.wanted[..., : problem.inputs]
    place = wanted / grid.scale + grid.zero_point
    bounds = grid.real(np.floor(place)), grid.real(np.ceil(place))
    if grid.zeros is None:
        return bounds
    return np.where(grid.zeros, 0.0, bounds[0]), np.where(grid.zeros, 0.0, bounds[1])


def _sweep(problem: Rounding, q: np.ndarray, bounds: tuple[np.ndarray, np.ndarray] | None) -> None:
    """Move each weight of ``q``, in place, to its best number while the others stay."""
    hessian, grid, inputs = problem.hessian, problem.grid, problem.inputs
    slope = np.matmul(q - problem.wanted, hessian)  # half the gradient, (groups, outputs, k)
    for start in range(0, inputs, BLOCK):
        block = slice(start, min(start + BLOCK, inputs))
        moved = np.zeros_like(q[..., block])
        near = slope[..., block].copy()
        for i in range(moved.shape[-1]):
            k = start + i
            free = q[..., k] - near[..., i] / hessian[:, k, k][:, None]
            column = grid.column(k).nearest(free[..., None])[..., 0]
            if bounds is not None:
                column = np.clip(column, bounds[0][..., k], bounds[1][..., k])
            moved[..., i] = column - q[..., k]
            near += moved[..., i, None] * hessian[:, None, k, block]
            q[..., k] = column
        slope += np.matmul(moved, hessian[:, block])
