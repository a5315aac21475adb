"""Choose which blocks of a layer's weights become zero, and refit the others. NumPy, one layer.

A block is ``outputs x inputs`` weights: so many neighbouring outputs by so many neighbouring inputs
of one run of taps, which a sparse kernel multiplies by one instruction or leaves out whole. Weights
are rows (outputs, k), k in the order of an OHWI weight, and, where the layer has a bias, it is the
last of k and never pruned. All objectives are those of the layer's outputs::

    (w - t) H (w - t)^T        t: the weights wanted, H: the regularized Hessian of the inputs

``obs`` prunes in rounds: in each, the weights that are left are refitted and the blocks whose loss
raises the objective least go. ``magnitude`` and ``wanda`` look once.

Sources: B. Hassibi and D. Stork, "Second order derivatives for network pruning: Optimal Brain
Surgeon", NIPS 1992, for the rise of the objective; E. Frantar, S. P. Singh and D. Alistarh,
"Optimal Brain Compression", NeurIPS 2022, section 4, for blocks of it; M. Sun et al., "A simple and
effective pruning approach for large language models" (Wanda), ICLR 2024, section 3. That the rows
of a block share one mask and so one inverse, and are refitted exactly in every round, is derived
here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Importance = Literal["magnitude", "wanda", "obs"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockShape:
    """What is pruned together.

    Attributes:
        outputs: Neighbouring outputs, at least 1.
        inputs: Neighbouring inputs of a run of taps, at least 1.
    """

    outputs: int
    inputs: int

    @classmethod
    def parse(cls, text: str) -> BlockShape | None:
        """Return the shape that ``"16x4"`` names, outputs by inputs; None if it is no shape."""
        parts = text.split("x")
        if len(parts) != 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
            return None
        return cls(outputs=int(parts[0]), inputs=int(parts[1]))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Problem:
    """A layer to prune.

    Attributes:
        weight: (o, k) float64, the weights at hand, the bias behind them.
        wanted: (o, k) float64; t above.
        hessian: (k, k) float64, positive definite.
        run: Inputs of one run of taps; k less the bias is a multiple of it.
        has_bias: Whether the last of k is the bias.
    """

    weight: np.ndarray
    wanted: np.ndarray
    hessian: np.ndarray
    run: int
    has_bias: bool

    @property
    def inputs(self) -> int:
        """Weights of an output, its bias not counted."""
        return self.weight.shape[1] - self.has_bias

    def groups(self, size: int) -> np.ndarray:
        """Return the number of each input's group of ``size`` neighbours, (inputs,)."""
        per_run = -(-self.run // size)
        place = np.arange(self.inputs)
        return place // self.run * per_run + place % self.run // size


def choose_mask(
    problem: Problem, shape: BlockShape, sparsity: float, importance: Importance, rounds: int
) -> np.ndarray:
    """Return which blocks are kept, (panels, groups) bool.

    Args:
        problem: The layer.
        shape: What is pruned together.
        sparsity: Share of the blocks that becomes zero, in [0, 1).
        importance: What is kept.
        rounds: In how many steps ``obs`` gets there, at least 1.
    """
    group = problem.groups(shape.inputs)
    panels, groups = -(-len(problem.weight) // shape.outputs), int(group.max()) + 1
    kept = np.ones((panels, groups), bool)
    if importance != "obs":
        energy = np.square(problem.weight[:, : problem.inputs])
        if importance == "wanda":
            energy = energy * np.diag(problem.hessian)[: problem.inputs]
        sums = _by_block(energy, group, shape.outputs, panels, groups)
        return _keep_best(sums, kept, 1 - sparsity)
    for step in range(1, rounds + 1):
        rise = np.full((panels, groups), -np.inf)
        for panel in range(panels):
            rows = slice(panel * shape.outputs, (panel + 1) * shape.outputs)
            rise[panel, kept[panel]] = _rises(problem, rows, kept[panel][group], group)
        kept = _keep_best(rise, kept, (1 - sparsity) ** (step / rounds))
    return kept


def refit(problem: Problem, shape: BlockShape, kept: np.ndarray) -> np.ndarray:
    """Return the weights of least objective that are zero where blocks are not kept, (o, k)."""
    group = problem.groups(shape.inputs)
    result = np.zeros_like(problem.weight)
    for panel, row in enumerate(kept):
        rows = slice(panel * shape.outputs, (panel + 1) * shape.outputs)
        places = _places(problem, row[group])
        result[rows, places] = _solve(problem, rows, places)[0]
    return result


def masked(problem: Problem, shape: BlockShape, kept: np.ndarray) -> np.ndarray:
    """Return the weights at hand, zero where blocks are not kept, (o, k)."""
    group = problem.groups(shape.inputs)
    rows = np.repeat(kept, shape.outputs, axis=0)[: len(problem.weight)]
    result = problem.weight.copy()
    result[:, : problem.inputs] *= rows[:, group]
    return result


def _places(problem: Problem, kept: np.ndarray) -> np.ndarray:
    """Return the places of the inputs that are kept, the bias among them."""
    places = np.flatnonzero(kept)
    return np.append(places, problem.inputs) if problem.has_bias else places


def _solve(problem: Problem, rows: slice, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the best weights at some places, (rows, places), and the inverse Hessian there."""
    inverse = np.linalg.inv(problem.hessian[np.ix_(places, places)])
    pull = problem.wanted[rows] @ problem.hessian[:, places]
    return pull @ inverse, inverse


def _rises(problem: Problem, rows: slice, kept: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return by how much the objective rises without each group that is kept."""
    places = _places(problem, kept)
    weight, inverse = _solve(problem, rows, places)
    left = group[kept]
    rise = []
    for members in _by_size(left):
        blocks = inverse[members[:, :, None], members[:, None, :]]
        gone = weight[:, members].transpose(1, 2, 0)  # (blocks, size, rows)
        loss = np.sum(gone * np.linalg.solve(blocks, gone), axis=(1, 2))
        rise.append((left[members[:, 0]], loss))
    numbers = np.concatenate([n for n, _ in rise])
    return np.concatenate([loss for _, loss in rise])[np.argsort(numbers, kind="stable")]


def _by_size(group: np.ndarray) -> list[np.ndarray]:
    """Return, size by size, the places of the members of the groups of it, (groups, size)."""
    _, first, counts = np.unique(group, return_index=True, return_counts=True)
    return [first[counts == size][:, None] + np.arange(size) for size in np.unique(counts)]


def _by_block(
    values: np.ndarray, group: np.ndarray, outputs: int, panels: int, groups: int
) -> np.ndarray:
    """Return the sums of values (o, inputs) over blocks, (panels, groups)."""
    sums = np.zeros((panels, groups))
    panel = np.arange(len(values)) // outputs
    np.add.at(sums, (panel[:, None], group[None, :]), values)
    return sums


def _keep_best(value: np.ndarray, kept: np.ndarray, density: float) -> np.ndarray:
    """Return the mask of the blocks of largest value among those kept, at least one."""
    count = min(max(1, round(density * kept.size)), int(kept.sum()))
    value = np.where(kept, value, -np.inf).reshape(-1)
    best = np.argsort(-value, kind="stable")[:count]
    result = np.zeros(kept.size, bool)
    result[best] = True
    return result.reshape(kept.shape)
