"""Find the channels of a graph that can only go, or change places, together.

A *group* is a run of units (channels, heads, places within heads) that occur in the same layers. To
take a unit out is to take it out of everything that ``ChannelGroup`` lists: out of the outputs of
what produces it, the inputs of what consumes it, and of the constants and depthwise layers between.
The net then computes the same as with the consumers' weights for it at 0. A group may be ``kept``,
as one over which a layer norm is taken: then its units can change places but not go. Or it is
``fixed``, as one that an output of the net shows.

Behind a flatten one channel is a place for each position; in attention the heads are a group (of
the outputs of queries, keys and values and the inputs of what follows) and the places within a head
two more: of queries and keys, which are summed over, and of values. Places within heads may be
taken for each head by itself where ``ChannelGroup.within`` is set.

Source: the groups are those of G. Fang et al., "DepGraph: towards any structural pruning", CVPR
2023, section 3, there found by pairs of layers; finding them by labels is derived here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.passes.prune.channel_labelling import Labelling
from tvmopt.passes.prune.channel_labels import Axis, Key
from tvmopt.passes.prune.channel_rules import label_channels


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Port:
    """Where a layer or constant holds the units of a group.

    Attributes:
        var: The variable of the operator.
        operand: Which of its operands is the constant.
        axis: The constant's axis.
        positions: (units, width) places along that axis: those of each unit.
    """

    var: relax.Var
    operand: int
    axis: int
    positions: np.ndarray

    @property
    def name(self) -> str:
        """The operator's name."""
        return self.var.name


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ChannelGroup:
    """Units that occur in the same layers.

    Attributes:
        name: Of the first layer that has it, ``/``, and the number of units; another number behind
            ``#`` where that stands for several.
        units: A label each, in the order of the first layer.
        producers: Convolutions and matmuls whose outputs they are.
        consumers: Convolutions and matmuls whose inputs they are.
        through: Depthwise and grouped convolutions whose groups they are.
        constants: Others, such as biases.
        products: Matmuls of two tensors that sum over them.
        within: The group, by name, within each unit of which these stand; "" if none does. There
            they may be taken differently.
        kept: Why none may go; "" if they may.
        fixed: Why none may even change places; "" if they may.
    """

    name: str
    units: tuple[int, ...]
    producers: tuple[Port, ...]
    consumers: tuple[Port, ...]
    through: tuple[Port, ...]
    constants: tuple[Port, ...]
    products: tuple[relax.Var, ...]
    within: str
    kept: str
    fixed: str

    @property
    def size(self) -> int:
        """How many units there are."""
        return len(self.units)

    @property
    def removable(self) -> str:
        """Why none may go; "" if they may."""
        return self.fixed or self.kept


class Channels:
    """The channels of "main".

    Attributes:
        mod: The module.
        graph: Its labels.
        groups: Its groups, in the order of the layers.
    """

    def __init__(self, mod: tvm.IRModule) -> None:
        """Look at a canonical module with static shapes and different names."""
        self.mod = mod
        self.graph: Labelling = label_channels(mod)
        self._values = dict(ir.bindings(mod["main"]))
        self._known: dict[tuple[int, ...], list[Key]] = {}
        members = self._members()
        number = {unit: n for n, units in enumerate(members) for unit in units}
        ports, uneven = self._ports(members, number)
        inside = self._inside(number)
        names = _names(members, ports)
        self.groups = tuple(
            self._describe(n, units, ports[n], names, inside[n], uneven=n in uneven)
            for n, units in enumerate(members)
        )

    def group(self, name: str) -> ChannelGroup:
        """Return the group of a name.

        Raises:
            KeyError: There is none.
        """
        for group in self.groups:
            if group.name == name:
                return group
        raise KeyError(name)

    def weight(self, port: Port) -> np.ndarray:
        """Return the constant that a port is in."""
        value = ir.constant(self._values[port.var].args[port.operand])
        assert value is not None, "ports are places in constants"
        return value

    def holders(self, group: ChannelGroup) -> frozenset[str]:
        """Return the names of the variables that have a group along an axis."""
        unit = group.units[0]
        return frozenset(
            var.name
            for var, axes in self.graph.axes.items()
            if any(unit in key for axis in axes if not stays(axis) for key in self.keys(axis))
        )

    def keys(self, axis: Axis) -> list[Key]:
        """Return the units of each place of an axis."""
        which = tuple(map(id, axis))  # factors live as long as the labels do
        if which not in self._known:
            self._known[which] = self.graph.labels.keys(axis)
        return self._known[which]

    def _members(self) -> list[tuple[int, ...]]:
        """Return the units of each group."""
        labels = self.graph.labels
        seen: dict[int, dict[int, None]] = {}
        for place, factor in enumerate(labels.factors):
            for label in factor.tolist():
                for unit in labels.units(label):
                    seen.setdefault(unit, {})[place] = None
        groups: dict[tuple[int, ...], list[int]] = {}
        for unit, places in seen.items():
            groups.setdefault(tuple(places), []).append(unit)
        return [tuple(units) for units in groups.values()]

    def _ports(
        self, members: list[tuple[int, ...]], number: dict[int, int]
    ) -> tuple[list[list[Port]], set[int]]:
        """Return the ports of each group, and the groups some unit of which occurs more often."""
        ports: list[list[Port]] = [[] for _ in members]
        uneven: set[int] = set()
        for (var, operand), axes in self.graph.constants.items():
            for at, axis in enumerate(axes):
                if stays(axis):
                    continue
                places: dict[int, dict[int, list[int]]] = {}
                for position, key in enumerate(self.keys(axis)):
                    for unit in key:
                        places.setdefault(number[unit], {}).setdefault(unit, []).append(position)
                for n, found in places.items():
                    rows = [found.get(unit, []) for unit in members[n]]
                    if len({len(row) for row in rows}) > 1:
                        uneven.add(n)
                        continue
                    positions = np.array(rows, np.int64)
                    ports[n].append(Port(var=var, operand=operand, axis=at, positions=positions))
        return ports, uneven

    def _inside(self, number: dict[int, int]) -> list[set[int]]:
        """Return the groups that occur wherever a group does, in constants on the same axis."""
        count = len(set(number.values()))
        inside: list[set[int] | None] = [None] * count

        def meet(keys: Sequence[Key]) -> None:
            every = {number[unit] for key in keys for unit in key}
            for n in every:
                held = inside[n]
                inside[n] = every - {n} if held is None else held & every

        for axes in self.graph.axes.values():
            meet([key for axis in axes if not stays(axis) for key in self.keys(axis)])
        for axes in self.graph.constants.values():
            for axis in axes:
                for key in () if stays(axis) else dict.fromkeys(self.keys(axis)):
                    meet([key])
        return [held or set() for held in inside]

    def _describe(
        self,
        n: int,
        units: tuple[int, ...],
        ports: list[Port],
        names: list[str],
        inside: set[int],
        *,
        uneven: bool,
    ) -> ChannelGroup:
        graph = self.graph
        roles: dict[str, list[Port]] = {}
        for port in ports:
            roles.setdefault(self._role(port, units[0]), []).append(port)
        kept = [graph.labels.kept[unit] for unit in units if unit in graph.labels.kept]
        fixed = [graph.labels.fixed[unit] for unit in units if unit in graph.labels.fixed]
        if uneven:
            fixed.append("its channels do not occur in the same places")
        products = tuple(
            var
            for var, axis in graph.contracted.items()
            if not stays(axis) and any(units[0] in key for key in self.keys(axis))
        )
        outer = min(inside) if len(inside) == 1 else None
        return ChannelGroup(
            name=names[n],
            units=units,
            producers=tuple(roles.get("producer", ())),
            consumers=tuple(roles.get("consumer", ())),
            through=tuple(roles.get("through", ())),
            constants=tuple(roles.get("constant", ())),
            products=products,
            within="" if outer is None else names[outer],
            kept=kept[0] if kept else "",
            fixed=fixed[0] if fixed else "",
        )

    def _role(self, port: Port, unit: int) -> str:
        weight = self.graph.weights.get(port.var)
        if weight is None or port.operand != 1:
            return "constant"
        if port.axis == weight.input_axis:
            return "consumer"
        grouped = weight.groups and any(unit in key for key in self.keys(weight.groups))
        return "through" if grouped else "producer"


def stays(axis: Axis) -> bool:
    """Say whether all places of an axis stay as they are."""
    return not any(factor.any() for factor in axis)


def _names(members: list[tuple[int, ...]], ports: list[list[Port]]) -> list[str]:
    """Return a name for each group, no two the same."""
    names: list[str] = []
    for units, found in zip(members, ports, strict=True):
        base = f"{found[0].name if found else 'none'}/{len(units)}"
        same = sum(name.split("#")[0] == base for name in names)
        names.append(f"{base}#{same + 1}" if same else base)
    return names
