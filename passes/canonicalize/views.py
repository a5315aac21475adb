"""How a stored tensor holds a logical one: the algebra behind ``canonicalize_layout``.

A ``View`` says which stored axes make up each logical axis. Transposing and merging axes, adding
and dropping axes of size 1 change the view only; splitting an axis refines the stored shape, which
moves no data either. Only going from one view to another may have to move data, and
``steps_between`` says how: by at most one transposition wherever one is enough.

Axes of size 1 take part in nothing: they are left out of every list, may stand anywhere in the
stored shape, and appear and disappear freely.

Source: none; derived here. The idea of composing transpositions and reshapes without performing
them is that of strided "views" in array libraries.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """A logical tensor, kept as a stored tensor of possibly another shape and order.

    Attributes:
        logical: The logical shape; no dimension is 0.
        stored: The stored shape, of the same number of elements.
        axes: For each logical axis the stored axes, those of size 1 left out, whose row-major
            merge it is. Every stored axis larger than 1 occurs exactly once.
    """

    logical: Shape
    stored: Shape
    axes: tuple[Shape, ...]

    @property
    def order(self) -> Shape:
        """The stored axes larger than 1, in logical order."""
        return tuple(a for group in self.axes for a in group)

    def is_in_order(self) -> bool:
        """Say whether the stored tensor is a mere reshape of the logical one."""
        return list(self.order) == sorted(self.order)


def plain(logical: Shape) -> View:
    """Return the view of a tensor stored as it is."""
    return ordered(logical, tuple(range(len(logical))))


def ordered(logical: Shape, order: Shape) -> View:
    """Return the view of a tensor stored with its logical axes in ``order``."""
    place = {axis: i for i, axis in enumerate(order)}
    return View(
        logical=logical,
        stored=tuple(logical[axis] for axis in order),
        axes=tuple((place[i],) if d != 1 else () for i, d in enumerate(logical)),
    )


def channels_last(logical: Shape) -> View:
    """Return the view of an (n, c, spatial...) tensor stored as (n, spatial..., c)."""
    return ordered(logical, (0, *range(2, len(logical)), 1))


def transpose(view: View, axes: Shape) -> View:
    """Return the view of the logical transposition by ``axes``; nothing moves."""
    return View(
        logical=tuple(view.logical[a] for a in axes),
        stored=view.stored,
        axes=tuple(view.axes[a] for a in axes),
    )


def reshape(view: View, logical: Shape) -> View | None:
    """Return the view of the same elements, in row-major order, under another logical shape.

    Its stored shape may differ from that of ``view`` by a reshape. None if an axis of the result
    would cut unevenly through axes that are not stored side by side; then the tensor has to be
    stored in order first.
    """
    return _split_to(view, logical) or _split_to(_coalesced(view), logical)


def _split_to(view: View, logical: Shape) -> View | None:
    stored = _Splitter(view)
    axes: list[Shape] = []
    pending = list(view.order)
    for size in logical:
        taken: list[int] = []
        while size > 1:
            axis = pending.pop(0)
            if size % stored.size(axis) == 0:
                size //= stored.size(axis)
            elif stored.size(axis) % size == 0:
                pending.insert(0, stored.split(axis, size))
                size = 1
            else:
                return None
            taken.append(axis)
        axes.append(tuple(taken))
    return stored.view(logical, axes)


def _coalesced(view: View) -> View:
    """Join the axes that follow each other both in the logical order and in store.

    The result has one logical axis, so that only its elements' order is that of ``view``.
    """
    stored_order = sorted(view.order)
    runs: list[list[int]] = []
    for axis in view.order:
        i = stored_order.index(axis)
        if runs and i > 0 and stored_order[i - 1] == runs[-1][-1]:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    by_place = sorted(runs)
    return View(
        logical=(math.prod(view.logical),),
        stored=tuple(math.prod(view.stored[a] for a in run) for run in by_place),
        axes=(tuple(by_place.index(run) for run in runs),),
    )


class _Splitter:
    """The stored axes of a view while some of them are split; handles stay valid."""

    def __init__(self, view: View) -> None:
        self._sizes = dict(enumerate(view.stored))
        self._order = list(range(len(view.stored)))

    def size(self, axis: int) -> int:
        return self._sizes[axis]

    def split(self, axis: int, outer: int) -> int:
        """Split an axis into ``outer`` times the rest, and return the handle of the rest."""
        inner = max(self._sizes) + 1
        self._sizes[inner] = self._sizes[axis] // outer
        self._sizes[axis] = outer
        self._order.insert(self._order.index(axis) + 1, inner)
        return inner

    def view(self, logical: Shape, axes: list[Shape]) -> View:
        place = {handle: i for i, handle in enumerate(self._order)}
        return View(
            logical=logical,
            stored=tuple(self._sizes[h] for h in self._order),
            axes=tuple(tuple(place[h] for h in group) for group in axes),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Steps:
    """Bring a stored tensor into another form: reshape, transpose, reshape.

    Attributes:
        before: The shape to transpose in.
        axes: The transposition, or None if there is none.
        after: The shape at the end.
    """

    before: Shape
    axes: Shape | None
    after: Shape


def steps_between(source: View, target: View) -> list[Steps]:
    """Say how a tensor stored as ``source`` becomes one stored as ``target``.

    Args:
        source: How it is.
        target: How it should be; the same logical shape.

    Returns:
        No steps where the stored shapes agree and nothing moves; one where the axes of both can be
        cut into common pieces; else two, by way of a tensor stored with its axes whole.
    """
    pieces = _common_pieces(source, target)
    if pieces is None:
        whole = solid(source)
        return [*steps_between(source, whole), *steps_between(whole, target)]
    now, then = _by_place(source, pieces), _by_place(target, pieces)
    if now == then:
        same = source.stored == target.stored
        return [] if same else [Steps(before=source.stored, axes=None, after=target.stored)]
    return [_transposition(source, target, now, then)]


Piece = tuple[int, int, int]  # logical axis, number within it, size


def _common_pieces(source: View, target: View) -> list[list[int]] | None:
    """Cut each logical axis where either view cuts it: the sizes of the pieces, or None."""
    result: list[list[int]] = []
    for mine, theirs in zip(source.axes, target.axes, strict=True):
        cuts = sorted({*_cuts(source, mine), *_cuts(target, theirs)})
        sizes = []
        for low, high in itertools.pairwise(cuts):
            if high % low:
                return None
            sizes.append(high // low)
        result.append(sizes)
    return result


def _cuts(view: View, group: Shape) -> list[int]:
    cuts = [1]
    for axis in group:
        cuts.append(cuts[-1] * view.stored[axis])
    return cuts


def _by_place(view: View, pieces: list[list[int]]) -> list[Piece]:
    """List the pieces in the order in which ``view`` stores them."""
    placed: list[tuple[int, int, Piece]] = []
    for logical, (group, sizes) in enumerate(zip(view.axes, pieces, strict=True)):
        number = 0
        for axis in group:
            left = view.stored[axis]
            while left > 1:
                placed.append((axis, number, (logical, number, sizes[number])))
                left //= sizes[number]
                number += 1
    return [piece for _, _, piece in sorted(placed)]


def _transposition(source: View, target: View, now: list[Piece], then: list[Piece]) -> Steps:
    """Transpose pieces, and axes of size 1 with them where that spares a reshape."""
    before, after = _with_units(source, now), _with_units(target, then)
    cut = [size for _, _, size in before] != list(source.stored)
    if cut or before.count(_UNIT) != after.count(_UNIT):
        # There is a reshape in front or behind; let it be the only one.
        if cut:
            before = [p for p in before if p != _UNIT]
            before = [_UNIT] * after.count(_UNIT) + before
        else:
            after = [p for p in after if p != _UNIT]
            after = [_UNIT] * before.count(_UNIT) + after
    units = iter(i for i, piece in enumerate(before) if piece == _UNIT)
    axes = tuple(next(units) if piece == _UNIT else before.index(piece) for piece in after)
    return Steps(before=tuple(size for _, _, size in before), axes=axes, after=target.stored)


_UNIT: Piece = (-1, 0, 1)


def _with_units(view: View, pieces: list[Piece]) -> list[Piece]:
    """Put the axes of size 1 of a stored shape between the pieces of the others."""
    rest = iter(pieces)
    result: list[Piece] = []
    for size in view.stored:
        if size == 1:
            result.append(_UNIT)
        left = size
        while left > 1:
            result.append(next(rest))
            left //= result[-1][2]
    return result


def solid(view: View) -> View:
    """Return the nearest view that stores each logical axis as one axis.

    If the pieces of each logical axis lie together already, getting there moves nothing.
    """
    return ordered(view.logical, solid_order(view))


def solid_order(view: View) -> Shape:
    """Return the logical axes in the order in which their last pieces are stored."""
    by_place = {group[-1]: i for i, group in enumerate(view.axes) if group}
    units = [i for i, d in enumerate(view.logical) if d == 1]
    order: list[int] = []
    for place, size in enumerate(view.stored):
        if place in by_place:
            order.append(by_place[place])
        elif size == 1 and units:
            # Where the stored tensor has an axis of size 1, no reshape is needed to find one.
            order.append(units.pop(0))
    for unit in units:
        before = next((order.index(i) + 1 for i in range(unit - 1, -1, -1) if i in order), 0)
        order.insert(before, unit)
    return tuple(order)
