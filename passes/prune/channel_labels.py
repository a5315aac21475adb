"""Label the places along axes of tensors, so that those that must stay or go together are one.

An axis is a row-major product of *factors*: ``(H * W * C)`` behind a flatten, ``(heads * width)``
in front of attention. A factor has a label for each of its places. Labels are joined where an
operator needs two places to be the same channel, and a label that turns out to be a pair (of a head
and a place within it, say) has *parts*: it goes when either goes. Label 0 stands for every place
that always stays, such as those of an image's rows. What is then left, labels without parts, are
the *units*: each of them can go, or change places with another, on its own.

Source: none; derived here. That pruning needs the groups of channels that depend on each other:
G. Fang et al., "DepGraph: towards any structural pruning", CVPR 2023, section 3.
"""

from __future__ import annotations

import math

import numpy as np

Factor = np.ndarray
"""(places,) int64, a label each."""
Axis = tuple[Factor, ...]
"""Factors of more than one place, outermost first; none for an axis of size 1."""
Axes = tuple[Axis, ...]
"""Of a tensor."""
Key = tuple[int, ...]
"""The units that a place belongs to."""

STAYS = 0


class Labels:
    """The labels of a graph.

    Attributes:
        factors: Every factor that was made.
        kept: Why a label must not go; it may still change places.
        fixed: Why a label must not even change places.
    """

    def __init__(self) -> None:
        self.factors: list[Factor] = []
        self.kept: dict[int, str] = {}
        self.fixed: dict[int, str] = {}
        self._parent = [STAYS]
        self._parts: dict[int, tuple[int, int]] = {}

    def fresh(self, size: int) -> Axis:
        """Return an axis of new labels."""
        if size == 1:
            return ()
        first = len(self._parent)
        self._parent.extend(range(first, first + size))
        return (self.register(np.arange(first, first + size)),)

    def stay(self, size: int) -> Axis:
        """Return an axis all of whose places stay."""
        return () if size == 1 else (np.full(size, STAYS, np.int64),)

    def register(self, factor: Factor) -> Factor:
        """Note a factor made of labels that exist; labels of the same factors are a group."""
        self.factors.append(factor)
        return factor

    def find(self, label: int) -> int:
        """Return the one that stands for all labels joined with this one."""
        root = label
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[label] != root:
            self._parent[label], label = root, self._parent[label]
        return root

    def parts(self, label: int) -> tuple[int, int] | None:
        """Return the two that a label is the pair of; None if it is none."""
        return self._parts.get(self.find(label))

    def units(self, label: int) -> Key:
        """Return the units that a label stands for; none if it always stays."""
        root = self.find(label)
        if root == STAYS:
            return ()
        pair = self._parts.get(root)
        return (root,) if pair is None else (*self.units(pair[0]), *self.units(pair[1]))

    def keys(self, axis: Axis) -> list[Key]:
        """Return the units of each place of an axis."""
        result: list[Key] = [()]
        for factor in axis:
            inner = [self.units(int(label)) for label in factor]
            result = [(*outer, *key) for outer in result for key in inner]
        return result

    def join(self, one: int, other: int) -> None:
        """Make two labels one."""
        a, b = self.find(one), self.find(other)
        if a == b:
            return
        if b == STAYS:
            a, b = b, a
        pairs = self._parts.pop(a, None), self._parts.pop(b, None)
        self._parent[b] = a
        for reasons in (self.kept, self.fixed):
            if b in reasons:
                reasons.setdefault(a, reasons.pop(b))
        for pair in pairs:
            if pair is not None and a == STAYS:
                self.join(STAYS, pair[0])
                self.join(STAYS, pair[1])
        if a == STAYS:
            return
        kept = pairs[0] or pairs[1]
        if kept is not None:
            self._parts[a] = kept
        if pairs[0] is not None and pairs[1] is not None:
            self.join(pairs[0][0], pairs[1][0])
            self.join(pairs[0][1], pairs[1][1])

    def keep(self, axis: Axis, why: str) -> None:
        """Let no place of an axis go."""
        for label in np.unique(np.concatenate(axis)) if axis else ():
            self.kept.setdefault(self.find(int(label)), why)

    def fix(self, axis: Axis, why: str) -> None:
        """Let no place of an axis go or change."""
        for label in np.unique(np.concatenate(axis)) if axis else ():
            self.fixed.setdefault(self.find(int(label)), why)

    def unify(self, one: Axis, other: Axis) -> bool:
        """Make the places of two axes of one size the same; False where their factors disagree."""
        left, right = list(one), list(other)
        while left and right:
            a, b = left.pop(0), right.pop(0)
            if a is b:
                continue
            if len(a) == len(b):
                for x, y in zip(a.tolist(), b.tolist(), strict=True):
                    self.join(x, y)
                continue
            big, small, rest = (a, b, left) if len(a) > len(b) else (b, a, right)
            cut = self.split(big, len(small))
            if cut is None:
                return False
            rest[:0] = cut
            (right if big is a else left).insert(0, small)
        return not left and not right

    def regroup(self, axes: Axes, shape: tuple[int, ...]) -> Axes | None:
        """Return the axes of a reshape; None where an axis of the result cuts across factors."""
        left = [factor for axis in axes for factor in axis]
        result = []
        for size in shape:
            taken: list[Factor] = []
            while (held := math.prod(map(len, taken))) < size:
                if not left or size % held:
                    return None
                factor = left.pop(0)
                if held * len(factor) > size:
                    cut = self.split(factor, size // held)
                    if cut is None:
                        return None
                    left[:0] = cut
                    continue
                taken.append(factor)
            if held != size:
                return None
            result.append(tuple(taken))
        return tuple(result) if not left else None

    def settle(self) -> None:
        """Let what is said of a pair hold of its parts; to be called once, at the end."""
        for reasons in (self.kept, self.fixed):
            todo = list(reasons)
            while todo:
                label = todo.pop()
                for part in self.parts(label) or ():
                    reasons.setdefault(self.find(part), reasons[label])
                    todo.append(self.find(part))

    def split(self, factor: Factor, outer: int) -> list[Factor] | None:
        """Return smaller factors that a factor is the product of; None where there are none.

        Args:
            factor: The factor.
            outer: How many places the first of them is to have; where the factor was split before,
                in another way, those of then are returned.
        """
        if len(factor) % outer:
            return None
        inner = len(factor) // outer
        if not factor.any():
            return [factor[:outer], factor[:inner]]
        known = self._product(factor)
        if known is not None:
            return known
        roots = [self.find(label) for label in factor.tolist()]
        if any(root == STAYS or root in self._parts for root in roots):
            return None
        parts = self.fresh(outer)[0], self.fresh(inner)[0]
        for place, root in enumerate(roots):
            pair = int(parts[0][place // inner]), int(parts[1][place % inner])
            held = self._parts.setdefault(root, pair)
            self.join(held[0], pair[0])  # where a label stands twice
            self.join(held[1], pair[1])
        return list(parts)

    def _product(self, factor: Factor) -> list[Factor] | None:
        """Return the two factors that a factor of pairs is the product of; None if it is none."""
        pairs = [self.parts(int(label)) for label in factor]
        known = [pair for pair in pairs if pair is not None]
        if len(known) < len(pairs):
            return None
        rows = np.array([[self.find(x) for x in pair] for pair in known])
        inner = int(np.argmax(rows[:, 0] != rows[0, 0])) or len(rows)
        if len(rows) % inner:
            return None
        grid = rows.reshape(-1, inner, 2)
        same = (grid[:, :, 0] == grid[:, :1, 0]).all() and (grid[:, :, 1] == grid[:1, :, 1]).all()
        return [grid[:, 0, 0].copy(), grid[0, :, 1].copy()] if same else None
