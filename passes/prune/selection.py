"""Which blocks of a layer are kept, given what each is worth.

Source: none; derived here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tvmopt.passes.prune.problem import Problem
from tvmopt.passes.prune.structures import Structure


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Selection:
    """The blocks of a layer, or of some neighbouring groups of its inputs.

    Attributes:
        panels: How many blocks lie one below the other.
        outputs: Of a panel; the last may have fewer.
        group: (inputs,) the number of each input's group, ascending from 0.
        sets: (groups,) the number of each group's set, ascending from 0, of which ``most`` are
            kept; None where blocks may lie anywhere.
        most: See ``sets``.
        count: How many blocks are kept in the end, at least 1.
    """

    panels: int
    outputs: int
    group: np.ndarray
    sets: np.ndarray | None
    most: int
    count: int

    @classmethod
    def of(cls, problem: Problem, structure: Structure, sparsity: float) -> Selection:
        """Return the blocks of a layer.

        Args:
            problem: The layer.
            structure: What is pruned together.
            sparsity: Share of the blocks that becomes zero, in [0, 1); N:M structures say it
                themselves.
        """
        group = problem.groups(structure.inputs)
        panels, groups = -(-len(problem.weight) // structure.outputs), int(group[-1]) + 1
        if structure.most is None or structure.of is None:
            count = max(1, round((1 - sparsity) * panels * groups))
            sets, most = None, 0
        else:
            sets, most = problem.groups(structure.of), structure.most
            count = panels * int(np.minimum(np.bincount(sets), most).sum())
        return cls(
            panels=panels,
            outputs=structure.outputs,
            group=group,
            sets=sets,
            most=most,
            count=count,
        )

    @property
    def groups(self) -> int:
        """How many blocks lie side by side."""
        return int(self.group[-1]) + 1

    @property
    def every(self) -> np.ndarray:
        """The mask that keeps all, (panels, groups) bool."""
        return np.ones((self.panels, self.groups), bool)

    def rows(self, panel: int) -> slice:
        """Return the outputs of a panel."""
        return slice(panel * self.outputs, (panel + 1) * self.outputs)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Return the sums of values, (o, inputs), over blocks, (panels, groups)."""
        starts = np.searchsorted(self.group, np.arange(self.groups))
        across = np.add.reduceat(values, starts, axis=1)
        return np.add.reduceat(across, np.arange(0, len(values), self.outputs), axis=0)

    def spread(self, kept: np.ndarray, outputs: int) -> np.ndarray:
        """Return a mask of blocks, (panels, groups), as one of weights, (outputs, inputs)."""
        return np.repeat(kept, self.outputs, axis=0)[:outputs, self.group]

    def after(self, share: float) -> int:
        """Return how many blocks are kept when a share of the way is gone, in [0, 1]."""
        whole = self.panels * self.groups
        return round(whole * (self.count / whole) ** share)

    def best(self, value: np.ndarray, kept: np.ndarray, count: int) -> np.ndarray:
        """Return the mask of the ``count`` blocks of largest value among those kept.

        Args:
            value: (panels, groups); those not kept do not matter.
            kept: (panels, groups) bool.
            count: At least ``self.count``; where fewer are kept, all of them stay.
        """
        value = np.where(kept, value, -np.inf)
        if self.sets is not None:
            leading = self._leading(value, self.sets) & kept
            if count <= self.count:
                return leading
            value = np.where(leading, np.inf, value)
        count = min(count, int(kept.sum()))
        result = np.zeros(kept.size, bool)
        if count > 0:  # a partition, not a sort: masks are made anew in every step of a search
            result[np.argpartition(-value.reshape(-1), count - 1)[:count]] = True
        return result.reshape(kept.shape)

    def _leading(self, value: np.ndarray, sets: np.ndarray) -> np.ndarray:
        """Return which groups are among the ``most`` of largest value of their sets."""
        sizes = np.bincount(sets)
        within = np.arange(len(sets)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        table = np.full((len(value), len(sizes), int(sizes.max())), -np.inf)
        table[:, sets, within] = value
        order = np.argsort(-table, axis=2, kind="stable")
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.arange(table.shape[2])[None, None], axis=2)
        return rank[:, sets, within] < self.most
