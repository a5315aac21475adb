"""Tune the weights of a whole net together, so that its outputs meet those it had.

The weights that are not zero and the biases of all layers are moved by Adam, a few samples a step,
to lower the squared error of the outputs and of the tensors between blocks::

    |f(x) - y|^2 / |y|^2  +  c / n sum_i |h_i(x) - h_i|^2 / |h_i|^2     y, h_i: of the net as it was

A step is measured by the root of the mean square of each constant, so that layers of large and of
small weights move alike. Of every five samples one is never fitted to: after each pass over the
others that one is asked, and the constants that serve it best are taken. No labels are needed.

Sources: D. Kingma and J. Ba, "Adam: a method for stochastic optimization", ICLR 2015; T. Kim et
al., "Comparing Kullback-Leibler divergence and mean squared error loss in knowledge distillation",
IJCAI 2021, for squared error of logits; A. Romero et al., "FitNets: hints for thin deep nets", ICLR
2015, for the tensors between; I. Loshchilov and F. Hutter, "SGDR", ICLR 2017, for how steps shrink;
N. Shazeer and M. Stern, "Adafactor", ICML 2018, section 8, for steps relative to the weights. The
samples held out are derived here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tvmopt.passes.prune.block_net import BlockNet, Trained
from tvmopt.passes.prune.kept_batches import Batch, Goal
from tvmopt.passes.prune.net_blocks import NetBlock
from tvmopt.passes.prune.stacking import at_once, stacked
from tvmopt.passes.prune.tune_block import Tuned

_HELD_OUT = 5  # every so many batches one is not fitted to
_SAMPLES = 32  # of a step
_RATE = 0.02  # the largest step, as a share of the root of a constant's mean square
_WARM = 0.1  # share of the steps in which they grow to that
_BETWEEN = 1.0  # c, the weight of the tensors between


def tune_net(
    block: NetBlock,
    trained: Sequence[Trained],
    batches: Sequence[Batch],
    goals: Sequence[Goal],
    *,
    passes: int,
    seed: int,
    tell: Callable[[int], None],
) -> Tuned:
    """Return the constants of a net that lower its error on the samples held out.

    Args:
        block: The net.
        trained: The constants of it that may change.
        batches: At least one.
        goals: What each of a batch's arrays is for; the outputs first.
        passes: At least 1.
        seed: Of the order of the samples.
        tell: Takes how many passes are done.

    Returns:
        Its errors are those of the outputs on the samples held out.
    """
    task = _Task(block, trained, batches, goals)
    fitted, held = _parts(len(batches))
    values, best = ([one.value.copy() for one in trained] for _ in range(2))
    rng = np.random.default_rng(seed)
    before = least = task.error(values, held)
    count = -(-len(fitted) // max(1, _SAMPLES // task.batch))  # steps of a pass
    adam = _Adam(trained, passes * count)
    for done in range(passes):
        tell(done)
        for some in np.array_split(rng.permutation(fitted), count):
            adam.step(values, task.slope(values, some.tolist()))
        if (error := task.error(values, held)) < least:
            best, least = [value.copy() for value in values], error
    tell(passes)
    return Tuned(values=tuple(best), trained=tuple(trained), before=before, after=least)


def _parts(count: int) -> tuple[list[int], list[int]]:
    """Return the numbers of the batches that are fitted to, and of those held out."""
    held = [i for i in range(count) if i % _HELD_OUT == _HELD_OUT - 1]
    fitted = [i for i in range(count) if i % _HELD_OUT != _HELD_OUT - 1]
    return fitted, held or fitted


class _Task:
    """The error of a net, as a share of the square of what is wanted."""

    def __init__(
        self,
        block: NetBlock,
        trained: Sequence[Trained],
        batches: Sequence[Batch],
        goals: Sequence[Goal],
    ) -> None:
        self._net, self._batches, self._goals = BlockNet(block, trained), batches, goals
        energy = np.zeros(len(goals))
        for i in range(len(batches)):
            energy += [float(np.sum(np.square(y, dtype=np.float64))) for y in batches[i][1]]
        self._energy = np.maximum(energy / len(batches), np.finfo(np.float32).tiny)
        self._weights = np.full(len(goals), _BETWEEN / max(1, len(goals) - 1))
        self._weights[0] = 1.0
        self.batch = max(1, len(batches[0][1][0])) if batches[0][1][0].ndim else 1
        self._at_once = at_once(block)

    def error(self, values: Sequence[np.ndarray], which: Sequence[int]) -> float:
        """Return the error of the outputs of some batches."""
        total = 0.0
        for inputs, wanted in self._some(which):
            made, _ = self._net.run(inputs, values)
            missed = made[self._goals[0].made] - wanted[0]
            total += float(np.sum(np.square(missed, dtype=np.float64)))
        return total / len(which) / float(self._energy[0])

    def slope(self, values: Sequence[np.ndarray], which: Sequence[int]) -> list[np.ndarray]:
        """Return the derivative of the error of some batches by each constant."""
        by = [np.zeros_like(value) for value in values]
        scales = 2.0 * self._weights / self._energy / len(which)
        for inputs, wanted in self._some(which):
            made, pull = self._net.run(inputs, values)
            gradients = {
                goal.made: np.float32(scale) * (made[goal.made] - y)
                for goal, scale, y in zip(self._goals, scales, wanted, strict=True)
            }
            for place, part in zip(by, pull(gradients), strict=True):
                place += part
        return by

    def _some(self, which: Sequence[int]) -> Iterator[Batch]:
        """Yield batches, several as one where they can be."""
        for start in range(0, len(which), self._at_once):
            yield stacked([self._batches[i] for i in which[start : start + self._at_once]])


class _Adam:
    """Steps that shrink along half a cosine; numbers that are not free stay."""

    def __init__(self, trained: Sequence[Trained], steps: int) -> None:
        self._free = [one.free.astype(np.float32) for one in trained]
        self._rates = [_RATE * _size(one) for one in trained]
        self._mean = [np.zeros_like(one.value) for one in trained]
        self._square = [np.zeros_like(one.value) for one in trained]
        self._steps, self._done = steps, 0

    def step(self, values: Sequence[np.ndarray], gradients: Sequence[np.ndarray]) -> None:
        """Move the values, in place."""
        self._done += 1
        warm = max(1.0, _WARM * self._steps)
        far = min(1.0, self._done / warm) * 0.5 * (1.0 + np.cos(np.pi * self._done / self._steps))
        correct = np.sqrt(1.0 - 0.999**self._done) / (1.0 - 0.9**self._done)
        for i, (value, gradient) in enumerate(zip(values, gradients, strict=True)):
            mean, square = self._mean[i], self._square[i]
            mean += np.float32(0.1) * (gradient - mean)
            square += np.float32(0.001) * (np.square(gradient) - square)
            rate = np.float32(far * correct * self._rates[i])
            value -= rate * self._free[i] * mean / (np.sqrt(square) + np.float32(1e-12))


def _size(one: Trained) -> float:
    """Return the root of the mean square of what is free of a constant."""
    free = one.value[one.free]
    return float(np.sqrt(np.mean(np.square(free, dtype=np.float64)))) if free.size else 0.0
