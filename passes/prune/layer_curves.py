"""What the loss of a layer's blocks costs, looked at once, before anything is pruned.

A weight is worth its square by the mean square of the inputs that it is multiplied by, a block the
sum of its weights'. Without samples all inputs count alike. Where blocks go that hold a share f of
what all are worth, the layer loses ``f / (1 - f)``: noise beside signal, which grows without bound
as a layer empties, so that no layer is emptied for the sake of others.

Sources: M. Sun et al., "A simple and effective pruning approach for large language models" (Wanda),
ICLR 2024, section 3, for what a weight is worth; the loss is derived here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tvm

from tvmopt.calibration import Samples, Tap
from tvmopt.errors import DataError
from tvmopt.passes.prune.allocation import Curve
from tvmopt.passes.prune.float_layers import FloatLayer
from tvmopt.passes.prune.problem import Problem
from tvmopt.passes.prune.selection import Selection
from tvmopt.passes.prune.structures import Goal, Structure

_LEAST = 1e-6  # share of its worth that a layer is taken to keep whatever goes


class LayerCurves:
    """The costs of the blocks of some layers."""

    def __init__(
        self,
        mod: tvm.IRModule,
        layers: Sequence[FloatLayer],
        samples: Samples | None,
        tap: Tap | None,
    ) -> None:
        """Run the samples once, if there are any.

        Raises:
            DataError: What a layer reads is not finite.
        """
        self._squares: Mapping[str, np.ndarray] = {}
        self._factor: dict[str, float] = {}
        if samples is not None and tap is not None:
            self._squares = _mean_squares(mod, layers, samples, tap)

    def scale(self, factors: Mapping[str, float]) -> None:
        """Let all blocks of each layer cost so many times their loss."""
        self._factor = dict(factors)

    def curve(self, layer: FloatLayer, structure: str) -> Curve:
        """Return what the blocks of a structure cost."""
        shape = _parsed(structure)
        gone = np.cumsum(np.sort(self._sums(layer, shape), axis=None))
        share = gone / (float(gone[-1]) or 1.0)
        lost = share / np.maximum(1.0 - share, _LEAST)
        cost = np.diff(lost, prepend=0.0) * self._factor.get(layer.name, 1.0)
        # Differences of a convex curve rise; rounding must not say otherwise.
        return Curve(cost=np.maximum.accumulate(cost), block=shape.outputs * shape.inputs)

    def without(self, layer: FloatLayer, goal: Goal) -> np.ndarray:
        """Return the layer's rows, as ``FloatLayer.rows``, without the blocks that cost least."""
        shape = _parsed(goal.structure)
        selection = Selection.of(_problem(layer), shape, goal.sparsity)
        kept = selection.best(self._sums(layer, shape), selection.every, selection.count)
        rows = layer.rows()
        inputs = rows.shape[1] - (layer.reference_bias is not None)
        rows[:, :inputs] *= selection.spread(kept, len(rows))
        return rows

    def _sums(self, layer: FloatLayer, shape: Structure) -> np.ndarray:
        problem = _problem(layer)
        worth = np.square(problem.weight)
        if layer.name in self._squares:
            squares = self._squares[layer.name]
            worth *= np.tile(squares, worth.shape[1] // len(squares))
        return Selection.of(problem, shape, 0.0).sums(worth)


def _parsed(structure: str) -> Structure:
    shape = Structure.parse(structure)
    assert shape is not None, "structures are looked at when options are made"
    return shape


def _problem(layer: FloatLayer) -> Problem:
    rows = layer.rows()
    weight = rows if layer.reference_bias is None else rows[:, :-1]
    empty = np.empty((0, 0))
    return Problem(weight=weight, wanted=weight, hessian=empty, run=layer.run, has_bias=False)


def _mean_squares(
    mod: tvm.IRModule, layers: Sequence[FloatLayer], samples: Samples, tap: Tap
) -> dict[str, np.ndarray]:
    """Return the mean square of each channel that a layer reads, by the layer's name."""
    read = list(dict.fromkeys(layer.data.name for layer in layers))
    run = tap(mod, read)
    sums: dict[str, np.ndarray] = {}
    for feed in samples:
        for name, value in run(feed).items():
            flat = value.reshape(-1, value.shape[-1]).astype(np.float64)
            sums[name] = sums.get(name, 0.0) + np.square(flat).mean(axis=0)
    for layer in layers:
        if not np.isfinite(sums[layer.data.name]).all():
            raise DataError(
                f"layer {layer.name!r}: values must be finite for every calibration sample, got "
                "NaN or infinities; look at the samples"
            )
    return {layer.name: sums[layer.data.name] / len(samples) for layer in layers}
