"""Let channels change places so that those of like weights share blocks. Free at run time.

Before and after, for channels that only layers see whose order is ours to choose::

    y = conv2d(x, w1) + b;  z = conv2d(relu(y), w2)      the same with w1[i], b[i], w2[:, :, :, i]

A block of several outputs goes whole, though only some of its rows may be dispensable; where rows
that need the same inputs lie side by side, less is lost. The same holds for the inputs of layers
whose blocks have several, and of N:M. A place is as good as the squares of the weights that a mask
keeps there. For given masks the best order is an assignment of units to places, which is solved
exactly; for a given order the best masks are the largest blocks. Both are done in turn, so what is
kept only grows; of several starts the best is taken. The net computes what it did, but for the
order of sums.

Sources: J. Pool and C. Yu, "Channel permutations for N:M sparsity", NeurIPS 2021, for the aim and
its being absorbed by the neighbours; G. Huang et al., "Shfl-BW: accelerating deep neural network
inference with tensor-core aware weight pruning", DAC 2022, for rows that share blocks. Solving it
as assignments in turn with masks is derived here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tvm
from scipy.optimize import linear_sum_assignment

from tvmopt.passes.prune.channel_groups import ChannelGroup, Channels, Port
from tvmopt.passes.prune.float_layers import FloatLayer
from tvmopt.passes.prune.layer_order import LayerOrder
from tvmopt.passes.prune.structures import Goal
from tvmopt.passes.prune.take_channels import take_channels

_STEPS = 8  # of masks and assignments in turn; what they still gain then is below a percent
_LEAST = 1e-3  # gain of a step, as a share, below which it is the last
_FEW = 256  # units up to which more than one start is tried
_MOST = 2048  # units up to which assignments are solved; their time grows with the cube


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Ordered:
    """A graph whose channels changed places.

    Attributes:
        mod: The graph.
        outputs: For each layer whose outputs moved, by its name, the number of each among those
            that it had, (outputs,).
        gains: For each layer that is to be pruned and whose weights moved, by its name, the share
            of the weights' squares in the largest blocks before and after.
    """

    mod: tvm.IRModule
    outputs: Mapping[str, np.ndarray]
    gains: Mapping[str, tuple[float, float]]


def order_channels(
    mod: tvm.IRModule, layers: Sequence[FloatLayer], goals: Mapping[str, Goal]
) -> Ordered:
    """Return a graph that computes the same, with channels in a better order for pruning.

    Args:
        mod: Canonical, with different names; it stays as it was.
        layers: Those of it that are to be pruned.
        goals: What is asked of each, by its name.
    """
    channels = Channels(mod)
    sites = {layer.name: LayerOrder(layer, goals[layer.name]) for layer in layers}
    before = {name: site.kept_share() for name, site in sites.items()}
    takes: dict[str, np.ndarray] = {}
    for group in channels.groups:
        ports = [_Place(port, sites[port.name]) for port in _ports(group, sites)]
        if group.fixed or not ports:
            continue
        lists = _lists(channels, group, ports)
        order = np.stack([_best_order(ports, column) for column in lists])
        if not np.array_equal(order, np.tile(np.arange(group.size), (len(order), 1))):
            takes[group.name] = order if group.within and len(order) > 1 else order[0]
    if not takes:
        return Ordered(mod=mod, outputs={}, gains={})
    gains = {name: (before[name], site.kept_share()) for name, site in sites.items() if site.moved}
    outputs = _outputs(channels, takes)
    return Ordered(mod=take_channels(channels, takes), outputs=outputs, gains=gains)


class _Place:
    """Where a layer that is to be pruned holds the units of a group."""

    def __init__(self, port: Port, site: LayerOrder) -> None:
        self.port, self.site = port, site

    def views(self, column: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Return what weights and masks there are at each unit, (units, all that is there)."""
        at = self._at(column)
        energy, mask = (
            np.moveaxis(values, self.port.axis, 0)[at].reshape(len(at), -1)
            for values in (self.site.energy, self.site.mask)
        )
        return energy, mask

    def move(self, column: int | None, order: np.ndarray) -> None:
        """Let units change places: the new order of those that are there."""
        at = self._at(column)
        self.site.move(self.port.axis, at.reshape(-1), at[order].reshape(-1))

    def _at(self, column: int | None) -> np.ndarray:
        positions = self.port.positions
        return positions if column is None else positions[:, column : column + 1]


def _ports(group: ChannelGroup, sites: Mapping[str, LayerOrder]) -> Iterator[Port]:
    """Yield where a group is in layers whose masks depend on its order."""
    for port, of_outputs in (
        *((port, True) for port in group.producers),
        *((port, False) for port in group.consumers),
    ):
        site = sites.get(port.name)
        if site is not None and (site.outputs_matter if of_outputs else site.inputs_matter):
            yield port


def _lists(
    channels: Channels, group: ChannelGroup, ports: Sequence[_Place]
) -> Sequence[int | None]:
    """Return the columns of the ports' places that are ordered by themselves; None for all."""
    if not group.within:
        return [None]
    count = channels.group(group.within).size
    alone = all(place.port.positions.shape[1] == count for place in ports)
    return list(range(count)) if alone else [None]


def _best_order(ports: Sequence[_Place], column: int | None) -> np.ndarray:
    """Order units as well as is found, and leave the sites in that order.

    Returns:
        (units,) numbers of units, in their new order.
    """
    sites = {id(place.site): place.site for place in ports}.values()
    found = [(sum(site.kept() for site in sites), np.arange(len(ports[0].port.positions)))]
    for start in _starts(ports, column):
        _move(ports, column, start)
        order, share = _alternate(ports, column, start)
        found.append((share, order))
        _move(ports, column, np.argsort(order))
    best = max(found, key=lambda item: item[0])[1]
    _move(ports, column, best)
    return best


def _starts(ports: Sequence[_Place], column: int | None) -> Iterator[np.ndarray]:
    """Yield orders to begin with: by what sets units apart, as it is, by size, dealt out."""
    energy = np.concatenate([place.views(column)[0] for place in ports], axis=1)
    count = len(energy)
    profile = energy / np.maximum(energy.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    apart = profile - profile.mean(axis=0)
    # The eigenvectors of the products, as there are fewer units than weights of each.
    _, vectors = np.linalg.eigh(apart @ apart.T)
    for vector in vectors[:, : -3 if count <= _FEW else -2 : -1].T:
        yield np.argsort(vector, kind="stable")
    if count > _FEW:
        return
    yield np.arange(count)
    by_size = np.argsort(-energy.sum(axis=1), kind="stable")
    yield by_size
    if any(place.site.inputs_matter for place in ports):
        for sets in (2, 4, 8, 16):  # large and small ones side by side, as N:M wants them
            if count % sets == 0:
                yield by_size.reshape(sets, -1).T.reshape(-1)


def _alternate(
    ports: Sequence[_Place], column: int | None, order: np.ndarray
) -> tuple[np.ndarray, float]:
    """Assign units to places for the masks at hand, and make masks anew, in turn."""
    sites = list({id(place.site): place.site for place in ports}.values())
    share = sum(site.kept() for site in sites)
    for _ in range(_STEPS if len(order) <= _MOST else 0):
        worth = np.zeros((len(order), len(order)))
        for place in ports:
            energy, mask = place.views(column)
            worth += energy @ mask.T
        _, unit = linear_sum_assignment(-worth.T)  # the unit of each place
        _move(ports, column, unit)
        order, last = order[unit], share
        share = sum(site.kept() for site in sites)
        if share - last <= _LEAST * last:
            break
    return order, share


def _move(ports: Sequence[_Place], column: int | None, order: np.ndarray) -> None:
    for place in ports:
        place.move(column, order)
    for site in {id(place.site): place.site for place in ports}.values():
        site.choose()


def _outputs(channels: Channels, takes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the order of the outputs of each layer some of whose outputs move."""
    outputs: dict[str, np.ndarray] = {}
    for name, order in takes.items():
        group = channels.group(name)
        for port in (*group.producers, *group.through):
            axis = 1 if channels.weight(port).ndim == 2 else 0
            if port.axis != axis:
                continue
            count = channels.weight(port).shape[axis]
            moved = outputs.setdefault(port.name, np.arange(count))
            at = port.positions
            new = at[order] if order.ndim == 1 else np.take_along_axis(at, order.T, axis=0)
            moved[at.reshape(-1)] = new.reshape(-1)
    return outputs
