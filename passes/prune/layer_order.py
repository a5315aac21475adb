"""A layer's weights while its channels change places, and the blocks that are largest there.

Source: none; derived here.
"""

from __future__ import annotations

import numpy as np

from tvmopt.passes.prune.float_layers import FloatLayer
from tvmopt.passes.prune.problem import Problem
from tvmopt.passes.prune.selection import Selection
from tvmopt.passes.prune.structures import Goal


class LayerOrder:
    """A layer that is to be pruned, whose channels can change places.

    Attributes:
        energy: In the weight's own layout, float32: the squares, of a mean of 1, so that of layers
            whose channels move together the larger one counts more.
        mask: Likewise: 1 in the largest blocks, 0 elsewhere.
        moved: Whether any channel changed its place.
    """

    def __init__(self, layer: FloatLayer, goal: Goal) -> None:
        """Take the layer as it is."""
        self._matmul, self._shape = layer.is_matmul, goal.shape
        squares = np.square(layer.layer.weight)
        self.energy = squares / max(float(np.mean(squares)), float(np.finfo(np.float32).tiny))
        rows = self._rows(self.energy)
        empty = np.empty((0, 0))
        problem = Problem(weight=rows, wanted=rows, hessian=empty, run=layer.run, has_bias=False)
        self._selection = Selection.of(problem, goal.shape, goal.sparsity)
        self.moved = False
        self.mask = np.empty_like(self.energy)
        self.choose()

    @property
    def outputs_matter(self) -> bool:
        """Whether the order of the outputs does."""
        return self._shape.outputs > 1

    @property
    def inputs_matter(self) -> bool:
        """Whether the order of the inputs does."""
        return self._shape.inputs > 1 or self._shape.of is not None

    def choose(self) -> None:
        """Make the mask anew."""
        selection, rows = self._selection, self._rows(self.energy)
        kept = selection.best(selection.sums(rows), selection.every, selection.count)
        mask = selection.spread(kept, len(rows)).astype(np.float32)
        self.mask = mask.T if self._matmul else mask.reshape(self.energy.shape)

    def kept(self) -> float:
        """Return the sum of the squares in the largest blocks."""
        return float(np.sum(self.energy * self.mask, dtype=np.float64))

    def kept_share(self) -> float:
        """Return the share of the squares that is in the largest blocks, in [0, 1]."""
        return self.kept() / (float(np.sum(self.energy, dtype=np.float64)) or 1.0)

    def move(self, axis: int, to: np.ndarray, what: np.ndarray) -> None:
        """Let places along an axis of the weight hold what other places of it held."""
        index = np.arange(self.energy.shape[axis])
        index[to] = what
        self.energy = np.take(self.energy, index, axis=axis)
        self.moved = self.moved or not np.array_equal(to, what)

    def _rows(self, values: np.ndarray) -> np.ndarray:
        return values.T if self._matmul else values.reshape(len(values), -1)
