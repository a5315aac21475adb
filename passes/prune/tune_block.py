"""Tune the weights of a block as a whole, so that its output meets the one wanted.

The weights that are not zero and the biases of all layers of a block are moved together to lower
the mean squared error of the block's output::

    min |f(x; weights) - y|^2       x: what the compressed net gives the block, y: the dense net's

by L-BFGS in the coordinates of ``whitening``. Every few batches one is not fitted to: of the steps
that were made, that one is taken that serves those best.

Sources: Y. Li et al., "BRECQ: pushing the limit of post-training quantization by block
reconstruction", ICLR 2021, for the objective; D. C. Liu and J. Nocedal, "On the limited memory BFGS
method for large scale optimization", Mathematical Programming 45 (1989). The batches held out are
derived here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from tvm import relax

from tvmopt.passes.prune.block_net import BlockNet, Trained
from tvmopt.passes.prune.kept_batches import Batch
from tvmopt.passes.prune.net_blocks import NetBlock
from tvmopt.passes.prune.whitening import Coordinates, split
from tvmopt.passes.quantize.hessian import Patches
from tvmopt.passes.quantize.weight_layers import patches_of

_HELD_OUT = 5  # every so many batches one is not fitted to
_LOOKED_AT = 32  # batches by which curvature is told
_MEMORY = 10  # steps that L-BFGS remembers


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tuned:
    """What tuning brought.

    Attributes:
        values: The tuned constants, in the order of ``trained``.
        trained: What they were.
        before: Squared error of all batches, as a share of the square of what is wanted.
        after: The same afterwards, not above ``before``.
    """

    values: tuple[np.ndarray, ...]
    trained: tuple[Trained, ...]
    before: float
    after: float


def tune_block(
    block: NetBlock,
    trained: Sequence[Trained],
    batches: Sequence[Batch],
    *,
    steps: int,
    seed: int,
) -> Tuned:
    """Return the constants of a block that lower its error.

    Args:
        block: The block.
        trained: The constants of it that may change.
        batches: At least one.
        steps: The most steps of L-BFGS, at least 1.
        seed: Of the directions by which curvature is told.
    """
    task = _Task(block, trained, batches)
    values = [one.value for one in trained]
    every = range(len(batches))
    before = task.error(values, every)
    fitted = [i for i in every if i % _HELD_OUT != _HELD_OUT - 1]
    held = [i for i in every if i % _HELD_OUT == _HELD_OUT - 1] or fitted
    coordinates = task.coordinates(values, fitted, seed)
    start = np.zeros(sum(one.size for one in coordinates))
    best, least = start, task.error(values, held)

    def measure(z: np.ndarray) -> tuple[float, np.ndarray]:
        error, by = task.slope(list(split(z, coordinates)), fitted)
        parts = [one.gradient(part) for one, part in zip(coordinates, by, strict=True)]
        return error, np.concatenate(parts)

    def look(z: np.ndarray) -> None:
        nonlocal best, least
        error = task.error(list(split(z, coordinates)), held)
        if error < least:
            best, least = z.copy(), error

    options = {"maxiter": steps, "maxcor": _MEMORY}
    minimize(measure, start, jac=True, method="L-BFGS-B", callback=look, options=options)
    tuned = list(split(best, coordinates))
    after = task.error(tuned, every)
    if not after < before:
        tuned, after = values, before
    return Tuned(values=tuple(tuned), trained=tuple(trained), before=before, after=after)


class _Task:
    """The error of a block, as a share of the square of what is wanted."""

    def __init__(
        self, block: NetBlock, trained: Sequence[Trained], batches: Sequence[Batch]
    ) -> None:
        self._net, self._trained, self._batches = BlockNet(block, trained), trained, batches
        self._output = block.output
        self._energy = [float(np.sum(np.square(y, dtype=np.float64))) for _, (y,) in batches]
        calls = {step.var: step.call for step in block.steps}
        self._data = {layer.var: calls[layer.var].args[0] for layer in block.layers}
        self._patches = {
            layer.var: patches_of(calls[layer.var], layer.weight) for layer in block.layers
        }

    def error(self, values: Sequence[np.ndarray], which: Sequence[int]) -> float:
        """Return the error of some batches."""
        total = 0.0
        for i in which:
            inputs, (wanted,) = self._batches[i]
            made, _ = self._net.run(inputs, values)
            missed = made[self._output] - wanted
            total += float(np.sum(np.square(missed, dtype=np.float64)))
        return total / (sum(self._energy[i] for i in which) or 1.0)

    def slope(
        self, values: Sequence[np.ndarray], which: Sequence[int]
    ) -> tuple[float, list[np.ndarray]]:
        """Return the error of some batches, and its derivative by each constant."""
        total, by = 0.0, [np.zeros(value.shape) for value in values]
        for i in which:
            inputs, (wanted,) = self._batches[i]
            made, pull = self._net.run(inputs, values)
            missed = made[self._output] - wanted
            total += float(np.sum(np.square(missed, dtype=np.float64)))
            for place, part in zip(by, pull({self._output: missed}), strict=True):
                place += part
        energy = sum(self._energy[i] for i in which) or 1.0
        return total / energy, [2.0 / energy * part for part in by]

    def coordinates(
        self, values: Sequence[np.ndarray], which: Sequence[int], seed: int
    ) -> list[Coordinates]:
        """Return those in which all constants weigh about alike.

        The mean square of the derivative along a random sign for each number of the output is
        that of the output by the constant, summed over the output.
        """
        looked = which[:: max(1, len(which) // _LOOKED_AT)]
        squares = [np.zeros(value.shape) for value in values]
        inputs: dict[relax.Var, np.ndarray] = {}
        energy = sum(self._energy[i] for i in looked) or 1.0
        for i in looked:
            given = self._batches[i][0]
            made, pull = self._net.run(given, values)
            signs = np.random.default_rng((seed, i)).choice(
                np.array([-1.0, 1.0], np.float32), made[self._output].shape
            )
            for place, part in zip(squares, pull({self._output: signs}), strict=True):
                place += np.square(part) / energy
            for layer, data in self._data.items():
                x = made[data] if data in made else given[data.name]
                moments = _moments(x, made[layer], self._patches[layer])
                if moments is not None:
                    inputs[layer] = inputs.get(layer, 0.0) + moments / len(looked)
        return [
            Coordinates(one, square, inputs.get(one.layer.var))
            for one, square in zip(self._trained, squares, strict=True)
        ]


def _moments(x: np.ndarray, y: np.ndarray, patches: Patches | None) -> np.ndarray | None:
    """Return mean r r^T of the rows r that a layer reads; None for grouped convolutions."""
    if patches is None or patches.groups != 1:
        return None
    if x.ndim != 4 or patches == Patches():
        rows = x.reshape(-1, x.shape[-1])
    else:
        places = np.arange(int(np.prod(y.shape[:3])))
        rows = patches.rows(x, (y.shape[1], y.shape[2]), places)[0]
    wide = rows.astype(np.float64)
    return wide.T @ wide / len(wide)
