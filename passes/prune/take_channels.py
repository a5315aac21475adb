"""Take channels out of a graph, or let them change places, in all layers that they occur in.

Before and after, for a group of channels of which the units ``i`` are taken, in that order::

    y = conv2d(x, w1) + b;  z = conv2d(relu(y), w2)          w1[i], b[i], w2[:, :, :, i]

A permutation changes nothing but the order of sums. Without the others the net computes what it
does with the weights that read them at 0. Cost: that of the smaller layers; nothing moves at run
time.

Source: none; derived here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.errors import OptionError
from tvmopt.passes.canonicalize.rebuild import rebuild_main
from tvmopt.passes.prune.channel_groups import ChannelGroup, Channels, stays
from tvmopt.passes.prune.channel_labels import Axes, Axis, Key


def take_channels(channels: Channels, takes: Mapping[str, np.ndarray]) -> tvm.IRModule:
    """Return the module with some channels of some groups; the given one is left as it was.

    Args:
        channels: Those of the module.
        takes: For a group, by name, the numbers of its units that are taken: (kept,), the order
            they are to have; or, for a group within another, (units of that, kept).

    Raises:
        OptionError: Numbers are out of range or stand twice, or the group cannot be changed so.
    """
    groups = {name: channels.group(name) for name in takes}
    for name, group in groups.items():
        _check(channels, group, takes[name])
    taking = _Taking(channels, groups, takes)
    return rebuild_main(channels.mod, lambda _graph: taking.rule)


def taken_outputs(channels: Channels, takes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what ``take_channels`` does to the outputs of layers.

    Returns:
        For each convolution and matmul whose outputs change, by its name: the number of each
        output among those that it had, (outputs,).
    """
    taking = _Taking(channels, {name: channels.group(name) for name in takes}, takes)
    found = {}
    for var, weight in channels.graph.weights.items():
        index = taking.index(channels.graph.constants[var, 1][weight.output_axis])
        if index is not None:
            found[var.name] = index
    return found


def _check(channels: Channels, group: ChannelGroup, indices: np.ndarray) -> None:
    where = f"channel group {group.name!r}"
    rows = indices if indices.ndim == 2 else indices[None]
    if indices.ndim == 2 and not group.within:
        raise OptionError(f"{where} stands within no other, and must be taken by one list")
    if indices.ndim == 2 and len(rows) != channels.group(group.within).size:
        count = channels.group(group.within).size
        raise OptionError(f"{where} must be taken by {count} lists, got {len(rows)}")
    for row in rows:
        inside = np.all((row >= 0) & (row < group.size)) and len(row) > 0
        if not inside or len(set(row.tolist())) != len(row):
            raise OptionError(
                f"{where} must be taken by different numbers from 0 to {group.size - 1}, "
                f"got {row.tolist()}"
            )
    moved = any(not np.array_equal(row, np.arange(group.size)) for row in rows)
    if moved and group.fixed:
        raise OptionError(f"{where} must stay as it is: {group.fixed}")
    if rows.shape[1] < group.size and group.kept:
        raise OptionError(f"{where} must not lose channels: {group.kept}")


class _Taking:
    """What becomes of each place of each axis."""

    def __init__(
        self,
        channels: Channels,
        groups: Mapping[str, ChannelGroup],
        takes: Mapping[str, np.ndarray],
    ) -> None:
        self._channels = channels
        self._flat: dict[int, int | None] = {}  # a unit, and which takes its place
        self._nested: dict[int, tuple[dict[int, int], int, ChannelGroup, np.ndarray]] = {}
        for name, group in groups.items():
            indices = takes[name]
            if indices.ndim == 1:
                ends = [*(group.units[i] for i in indices), *[None] * group.size]
                self._flat |= dict(zip(group.units, ends, strict=False))
            else:
                rows = {u: n for n, u in enumerate(channels.group(group.within).units)}
                for slot, unit in enumerate(group.units):
                    self._nested[unit] = (rows, slot, group, indices)
        self._indices: dict[tuple[int, ...], np.ndarray | None] = {}

    def rule(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        """Return what a variable is bound to afterwards."""
        if not isinstance(value, relax.Call):
            return value
        args = list(value.args)
        for place, arg in enumerate(args):
            axes = self._channels.graph.constants.get((var, place))
            if axes is not None and ir.is_constant(arg):
                args[place] = self._taken(arg, axes)
        if ir.is_call_to(value, "relax.reshape", "relax.broadcast_to"):
            args[1] = self._shape(args[1], var)
        attrs = self._attributes(var, value)
        same = all(new is old for new, old in zip(args, value.args, strict=True))
        return value if same and not attrs else ir.with_changes(value, args, **attrs)

    def _taken(self, constant: relax.Expr, axes: Axes) -> relax.Expr:
        values = ir.constant(constant)
        assert values is not None, "only constants are asked for"
        new = values
        for at, axis in enumerate(axes):
            index = self.index(axis)
            if index is not None:
                new = np.take(new, index, axis=at)
        return constant if new is values else relax.const(np.ascontiguousarray(new))

    def _shape(self, shape: relax.Expr, var: relax.Var) -> relax.Expr:
        axes = self._channels.graph.axes[var]
        sizes = [self._size(axis) for axis in axes]
        return shape if tuple(sizes) == ir.static_shape(var) else relax.ShapeExpr(sizes)

    def _attributes(self, var: relax.Var, call: relax.Call) -> dict[str, object]:
        graph = self._channels.graph
        weight = graph.weights.get(var)
        if weight is not None and weight.groups and self.index(weight.groups) is not None:
            return {"groups": self._size(weight.groups)}
        if ir.is_call_to(call, "relax.split") and var in graph.fields:
            at = int(call.attrs.axis)
            sizes = [self._size(axes[at]) for axes in graph.fields[var]]
            old = [int(field.shape[at]) for field in var.ty.fields]
            if sizes != old:
                ends = np.cumsum(sizes)[:-1].tolist()
                return {"indices_or_sections": [tvm.tirx.IntImm("int64", end) for end in ends]}
        return {}

    def _size(self, axis: Axis) -> int:
        index = self.index(axis)
        return int(np.prod([len(factor) for factor in axis])) if index is None else len(index)

    def index(self, axis: Axis) -> np.ndarray | None:
        """Return which places are taken along an axis; None where all stay as they are."""
        if stays(axis):
            return None
        which = tuple(map(id, axis))
        if which not in self._indices:
            index = self._find(self._channels.keys(axis))
            same = np.array_equal(index, np.arange(len(self._channels.keys(axis))))
            self._indices[which] = None if same else index
        return self._indices[which]

    def _find(self, keys: list[Key]) -> np.ndarray:
        seen: Counter[Key] = Counter()
        at: dict[tuple[Key, int], int] = {}
        for place, key in enumerate(keys):
            at[key, seen[key]] = place
            seen[key] += 1
        seen.clear()
        found = []
        for key in keys:
            new = self._moved(key)
            if new is not None:
                # Places of one key, as those of a channel behind a flatten, keep their order.
                found.append(at[new, seen[key]])
            seen[key] += 1
        return np.array(found, np.int64)

    def _moved(self, key: Key) -> Key | None:
        """Return the key whose place a key's takes; None where nothing does."""
        new: list[int] = []
        for unit in key:
            end = self._flat.get(unit, unit)
            if end is None:
                return None
            new.append(end)
        for place, unit in enumerate(key):
            if unit in self._nested:
                rows, slot, group, indices = self._nested[unit]
                if slot >= indices.shape[1]:
                    return None
                row = next((rows[other] for other in new if other in rows), None)
                if row is not None:
                    new[place] = group.units[indices[row, slot]]
        return tuple(new)
