"""Concatenations and splits along channels: kernels write and read rows within wider ones.

Before::

    a = k0(x): (pixels, 24);  b = k1(x): (pixels, 8);  c = concat(a, b);  y = k2(c)

After, without a step for c::

    k0 and k1 write their rows into those of c: (pixels, 32);  y = k2(c)

A part of a concatenation is written in place where its kernel can write so, and whatever else reads
it can read so (placed_rows.py); the others are copied. A field of a split is read in place where
all its readers can. A concatenation whose only reader the schedule would fuse with it stays.

Source: none; derived here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from tvm import relax

from tvmopt import ir
from tvmopt.kernels import cost, views
from tvmopt.kernels.rows import Rows, crossing
from tvmopt.kernels.views import CutSite, JoinSite
from tvmopt.lowering.graph import Graph, KernelCall, Node, Replacement
from tvmopt.lowering.kernel_cache import KernelCache
from tvmopt.lowering.placed_rows import can_read, can_write, placed
from tvmopt.lowering.row_patterns import TYPES, cut_of, is_split, parts_of
from tvmopt.report import Report

RESHAPES = ("relax.reshape", "relax.expand_dims", "relax.squeeze", "relax.flatten")
CROSSING_CYCLES = 1  # a vector in two cache lines is a second access


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """Where a value's rows lie: from element ``first`` of rows of ``pitch`` elements."""

    first: int
    pitch: int


def view_rows(
    graph: Graph, found: list[Replacement], kernels: KernelCache, report: Report
) -> list[Replacement]:
    """Return the kernels of a function, made to join and cut rows where they lie.

    Args:
        graph: The function.
        found: Its kernels; no binding belongs to two of them.
        kernels: The model's kernels.
        report: Gets one line for each concatenation and each field of a split that is a view.
    """
    rows = _RowViews(graph, found, kernels)
    for node in reversed(graph.nodes):  # what lies in another's part must know where that lies
        if node.index not in rows.covering:
            rows.join(node)
    for node in graph.nodes:
        if node.index not in rows.covering:
            rows.cut(node)
    for view in rows.views:
        report.add("Lower", view.site, applied=True, reason=view.reason)
    return [*(rows.placed(replacement) for replacement in found), *rows.views]


class _RowViews:
    """What becomes a view, while it grows."""

    def __init__(self, graph: Graph, found: Sequence[Replacement], kernels: KernelCache) -> None:
        self.graph, self.kernels = graph, kernels
        self.makers = {r.result.var: r for r in found if not r.more}
        self.covering = {index: r for r in found for index in r.covered}
        self.places: dict[relax.Var, _Place] = {}
        self.views: list[Replacement] = []
        self.absorbed: set[tuple[int, relax.Expr]] = set()

    def join(self, node: Node) -> None:
        """Make a concatenation a view, if it is one along rows and gains by it."""
        parts = parts_of(self.graph, node)
        if parts is None:
            return
        parts, absorbed = self._whole(parts)
        site, places = self._lay(node, parts, absorbed)
        if node.var not in self.places and not self._pays(node, parts, site, places):
            return
        self.places |= places
        own = [node.index, *self._tuples(node)]
        self.absorbed |= {(index, field) for index in own for field in absorbed}
        target = self.kernels.target
        cycles, types = views.join_cycles(site, target), TYPES[site.dtype]
        kernel = self.kernels.get(views.join_rows, "join_rows", site, target, cycles, types)
        name = f"join {' + '.join(str(width) for width in site.widths)} channels"
        note = f"{len(places)} of {len(parts)} parts written in place"
        self.views.append(_view(node, name, KernelCall(kernel=kernel, args=tuple(parts)), note))

    def _lay(
        self, node: Node, parts: Sequence[relax.Expr], absorbed: Set[relax.Expr]
    ) -> tuple[JoinSite, dict[relax.Var, _Place]]:
        """Return a concatenation as it could be, and where it has the parts that can move."""
        shape, dtype = ir.static_shape(node.var), ir.dtype(node.var)
        place = self.places.get(node.var)
        start, pitch = (0, shape[-1]) if place is None else (place.first, place.pitch)
        places: dict[relax.Var, _Place] = {}
        rows: list[Rows | None] = []
        widths = tuple(ir.static_shape(part)[-1] for part in parts)
        for part, width in zip(parts, widths, strict=True):
            name, own = self.graph.source(part), _Place(first=start, pitch=pitch)
            once = sum(self._is(other, name) for other in parts) == 1
            moves = name is not None and once and self._moves(name, node, absorbed)
            rows.append(_rows(own, dtype) if moves else None)
            if name is not None and moves:
                places[name] = own
            start += width
        site = JoinSite(
            count=prod(shape[:-1]),
            widths=widths,
            dtype=dtype,
            places=tuple(rows),
            out_rows=None if place is None else _rows(place, dtype),
        )
        return site, places

    def cut(self, node: Node) -> None:
        """Make a field of a split or a slice a view, if it is one of rows read by kernels."""
        found = cut_of(self.graph, node)
        readers = [
            (user, name)
            for user, name in self._readers(node.var)
            if (user.index, name) not in self.absorbed
        ]
        if found is None or not readers or node.var in self.graph.kept:
            return
        x, first = found
        source = self.graph.source(x)
        if source is None or not all(self._reads(user, name) for user, name in readers):
            return
        shape, out, dtype = ir.static_shape(x), ir.static_shape(node.var), ir.dtype(x)
        base = self.places.get(source, _Place(first=0, pitch=shape[-1]))
        place = _Place(first=base.first + first, pitch=base.pitch)
        self.places[node.var] = place
        site = CutSite(
            count=prod(shape[:-1]),
            width=shape[-1],
            first=first,
            size=out[-1],
            dtype=dtype,
            rows=_rows(base, dtype) if source in self.places else None,
        )
        kernel = self.kernels.get(
            views.cut_rows, "cut_rows", site, _rows(place, dtype), 0.0, TYPES[dtype]
        )
        name = f"channels {first} to {first + out[-1]} of {shape[-1]}"
        self.views.append(_view(node, name, KernelCall(kernel=kernel, args=(x,)), "read in place"))

    def placed(self, replacement: Replacement) -> Replacement:
        """Return a kernel made for where the rows that it reads and writes lie now."""
        call = replacement.call
        reads = [self._rows_of(arg) for arg in call.args]
        result = self._rows_of(replacement.result.var)
        if result is None and not any(reads):
            return replacement
        kernel = placed(call, reads, result, self.kernels)
        return replace(replacement, call=replace(call, kernel=kernel))

    def _rows_of(self, value: relax.Expr | np.ndarray) -> Rows | None:
        source = None if isinstance(value, np.ndarray) else self.graph.source(value)
        if source is None or source not in self.places:
            return None
        return _rows(self.places[source], ir.dtype(source))

    def _whole(self, parts: Sequence[relax.Expr]) -> tuple[list[relax.Expr], set[relax.Expr]]:
        """Return the parts with all fields of one split, in a row, as what was split; the fields.

        Only a view reads what was split: a concatenation that stays reads the fields.
        """
        found, absorbed = list(parts), set()
        for node in [split for split in map(self._split, parts) if split is not None]:
            fields = [i for i, part in enumerate(found) if self._split(part) is node]
            numbers = [self.graph.definition(found[i]).index for i in fields]
            whole = list(range(len(node.value.ty.fields)))
            if numbers == whole and fields == list(range(fields[0], fields[0] + len(whole))):
                absorbed |= {found[i] for i in fields}
                found[fields[0] : fields[-1] + 1] = [node.value.args[0]]
        return found, absorbed

    def _split(self, part: relax.Expr) -> Node | None:
        """Return the binding of the split along rows that ``part`` is a field of."""
        field = self.graph.definition(part)
        maker = self.graph.maker(part)
        if maker is None or not isinstance(field, relax.TupleGetItem):
            return None
        return self.graph.maker(field.tuple_value) if cut_of(self.graph, maker) else None

    def _moves(self, value: relax.Var, join: Node, absorbed: Set[relax.Expr]) -> bool:
        """Say whether a part of ``join`` can be written where it lies in it."""
        if value in self.graph.kept or value in self.places:
            return False
        maker, made = self.graph.maker(value), self.makers.get(value)
        nested = maker is not None and maker.index not in self.covering
        if nested and (maker is None or parts_of(self.graph, maker) is None):
            return False
        if not nested and (made is None or not can_write(made.call, self.kernels)):
            return False
        own = {join.index, *self._tuples(join)}
        return all(
            (user.index in own and (name.same_as(value) or name in absorbed))
            or self._reads(user, name)
            for user, name in self._readers(value)
        )

    def _tuples(self, join: Node) -> list[int]:
        """Return the binding of the tuple that only ``join`` reads, if it has one."""
        maker = self.graph.maker(join.value.args[0])
        own = maker is not None and self.graph.only_user(maker.var) is join
        return [maker.index] if maker is not None and own else []

    def _readers(self, value: relax.Var) -> Iterator[tuple[Node, relax.Var]]:
        """Yield what reads a value or a part of its rows, and under which name."""
        for user in self.graph.users.get(value, []):
            if user.index in self.covering:
                yield user, value
            elif cut_of(self.graph, user) is not None or is_split(user.value):
                yield from self._readers(user.var)
            else:
                yield user, value

    def _reads(self, user: Node, value: relax.Var) -> bool:
        """Say whether a binding's kernel can read a value within wider rows."""
        replacement = self.covering.get(user.index)
        if replacement is None:
            return False
        args = enumerate(replacement.call.args)
        numbers = [i for i, arg in args if not isinstance(arg, np.ndarray) and self._is(arg, value)]
        return bool(numbers) and all(can_read(replacement.call, i, self.kernels) for i in numbers)

    def _is(self, expr: relax.Expr, value: relax.Var | None) -> bool:
        source = self.graph.source(expr)
        return source is not None and source.same_as(value)

    def _pays(
        self,
        node: Node,
        parts: Sequence[relax.Expr],
        site: JoinSite,
        places: Mapping[relax.Var, _Place],
    ) -> bool:
        """Say whether writing in place saves more than it costs."""
        users, kept = self.graph.users.get(node.var, []), node.var in self.graph.kept
        alone = len(users) == 1 and users[0].index not in self.covering
        moving = alone and (
            ir.is_call_to(users[0].value, *RESHAPES) or parts_of(self.graph, users[0]) is not None
        )
        if alone and not moving and not kept:
            return False  # the schedule fuses the two
        item, target = np.dtype(site.dtype).itemsize, self.kernels.target
        before = 0
        for part, width, rows in zip(parts, site.widths, site.places, strict=True):
            maker = self.graph.maker(part)
            # What the schedule makes and nothing else reads, it makes where it is wanted.
            fused = (
                maker is not None
                and maker.index not in self.covering
                and self.graph.only_user(maker.var) is not None
            )
            if rows is not None or not fused:
                before += 2 * site.count * width * item
        crossed = sum(
            -(-ir.static_shape(name)[-1] // target.lanes(8 * item))
            * crossing(place.pitch * item, place.first * item, target.vector_bits // 8)
            for name, place in places.items()
        )
        saved = cost.stream_cycles(before, target) - cost.stream_cycles(site.copied_bytes, target)
        return saved > CROSSING_CYCLES * site.count * crossed


def _rows(place: _Place, dtype: str) -> Rows:
    return Rows.within(place.pitch, place.first, np.dtype(dtype).itemsize)


def _view(node: Node, site: str, call: KernelCall, note: str) -> Replacement:
    return Replacement(
        site=site,
        call=call,
        covered=frozenset({node.index}),
        result=node,
        layer=node.var.name,
        note=note,
    )
