"""Round a layer's weights one input at a time, and let the others make up for each rounding.

In the terms of ``hessian`` and ``round_weights``. **The target is asymmetric**: the Hessian is that
of the inputs that the layer gets in the compressed net, the outputs wanted are those of the dense
net, so each layer also repairs what the layers before it broke. The weights wanted are the ridge
regression of those outputs, with the ridge towards the weights as they were and none on the bias,
as far as it holds for rows that it has not seen.

Sources: E. Frantar, S. Ashkboos, T. Hoefler and D. Alistarh, "GPTQ: accurate post-training
quantization for generative pre-trained transformers", ICLR 2023, algorithm 1 (the order by the
Hessian's diagonal is that of the authors' code). The regression with a free bias, how far it is
trusted, and keeping for each output the better of this and rounding to nearest, are derived here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tvmopt.passes.quantize.hessian import Moments, regularized
from tvmopt.passes.quantize.round_weights import BLOCK, Rounding


def wanted_weights(weight: np.ndarray, missed: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """Return the weights that best give the wanted outputs, before any rounding.

    Args:
        weight: (groups, outputs, k), the weights at hand.
        missed: (groups, outputs, k), as in ``Moments``.
        hessian: (groups, k, k), regularized.

    Returns:
        t with ``(t - weight) hessian == missed``, of ``weight``'s shape.
    """
    return weight + np.linalg.solve(hessian, missed.swapaxes(1, 2)).swapaxes(1, 2)


def trusted_share(halves: tuple[Moments, Moments], ridge: float, *, has_bias: bool) -> float:
    """Return how much of the regression's change holds for rows that it was not fitted to.

    Where rows are fewer than the weights of an output, the regression gives any outputs wanted on
    the rows that it has seen, and little that is true of others. So it is fitted to each half of
    the rows, and the share of the change is taken that serves the other half best.

    Args:
        halves: Moments of two sets of rows, by batches where there are several.
        ridge: See ``regularized``.
        has_bias: Whether the last weight is the bias.

    Returns:
        The minimum of a parabola, within [0, 1]; 1 where nothing changes.
    """
    gain = cost = 0.0
    for fitted, other in (halves, halves[::-1]):
        hessian = regularized(fitted.inputs, ridge, has_bias=has_bias)
        change = np.linalg.solve(hessian, fitted.missed.swapaxes(1, 2)).swapaxes(1, 2)
        gain += float(np.sum(change * other.missed))
        cost += float(np.sum(np.matmul(change, other.inputs) * change))
    return min(max(gain / cost, 0.0), 1.0) if cost > 0.0 else 1.0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Elimination:
    """In which order inputs are rounded, and how an error passes to those after it.

    Attributes:
        order: (groups, k) of places, the bias, if there is one, last.
        factor: (groups, k, k) upper triangular U with ``U^T U`` the inverse of the Hessian in that
            order.
    """

    order: np.ndarray
    factor: np.ndarray

    @classmethod
    def of(cls, hessian: np.ndarray, *, has_bias: bool, activation_order: bool) -> Elimination:
        """Return the elimination of a regularized Hessian, (groups, k, k).

        Args:
            hessian: It serves any grid of the layer's weights.
            has_bias: Whether the last of k is the bias.
            activation_order: Whether inputs of the largest mean square come first.
        """
        groups, k, _ = hessian.shape
        inputs = k - has_bias
        order = np.tile(np.arange(k), (groups, 1))
        if activation_order:
            diagonal = np.einsum("gkk->gk", hessian)[:, :inputs]
            order[:, :inputs] = np.argsort(-diagonal, axis=1, kind="stable")
        ordered = np.take_along_axis(hessian, order[:, :, None], axis=1)
        ordered = np.take_along_axis(ordered, order[:, None, :], axis=2)
        return cls(order=order, factor=_inverse_factor(ordered))


def round_gptq(problem: Rounding, start: np.ndarray, how: Elimination) -> np.ndarray:
    """Round by GPTQ.

    Args:
        problem: The layer.
        start: Weights on the grid to fall back on, such as the nearest ones: (groups, outputs, k).
        how: The elimination of its Hessian.

    Returns:
        (groups, outputs, k), the weights on the grid; no output's objective is above ``start``'s.
    """
    weight = np.take_along_axis(problem.wanted, how.order[:, None, :], axis=2)
    _eliminate(weight, how.factor, problem, how.order[:, : problem.inputs])
    q = np.empty_like(weight)
    np.put_along_axis(q, np.broadcast_to(how.order[:, None, :], q.shape), weight, axis=2)
    return problem.better(problem.with_best_bias(q), problem.with_best_bias(start))


def _inverse_factor(hessian: np.ndarray) -> np.ndarray:
    """Return the upper triangular U with ``U^T U == hessian^-1``, for each group."""
    inverse = np.linalg.inv(hessian)
    symmetric = 0.5 * (inverse + inverse.swapaxes(1, 2))
    return np.linalg.cholesky(symmetric).swapaxes(1, 2)


def _eliminate(
    weight: np.ndarray, factor: np.ndarray, problem: Rounding, order: np.ndarray
) -> None:
    """Round ``weight`` column by column, in place, and pass each error on to later columns."""
    grid, inputs = problem.grid.take(order), problem.inputs
    for start in range(0, inputs, BLOCK):
        stop = min(start + BLOCK, inputs)
        errors = np.empty_like(weight[..., start:stop])
        for k in range(start, stop):
            column = grid.column(k).nearest(weight[..., k : k + 1])
            error = (weight[..., k : k + 1] - column) / factor[:, k, k][:, None, None]
            weight[..., k:stop] -= error * factor[:, k, k:stop][:, None, :]
            weight[..., k : k + 1] = column
            errors[..., k - start] = error[..., 0]
        weight[..., stop:] -= np.matmul(errors, factor[:, start:stop, stop:])
