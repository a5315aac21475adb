"""Find the groups of channels that a net can lose, and what it would save.

Source: none; derived here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tvm

from tvmopt import ir
from tvmopt.passes.prune.channel_groups import ChannelGroup, Channels, Port
from tvmopt.passes.prune.float_layers import FloatLayer
from tvmopt.passes.prune.take_channels import take_channels
from tvmopt.prediction import Predict

_STEPS = 8  # counts of a group that are looked at


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Candidate:
    """A group that may lose units.

    Attributes:
        group: The group.
        unit: What its units are, for people.
        rows: In how many rows units are chosen: as many as there are heads for places within heads,
            else one.
        readers: The layers that read it, and of the inputs of each those of every unit, (rows,
            units, width).
        made: (rows, units): the share of the square of the weights that produce each.
        counts: How many units a row may keep, descending.
        layers: The names of all layers that it is in.
        touched: The names of all bindings that hold it, and of its layers.
    """

    group: ChannelGroup
    unit: str
    rows: int
    readers: tuple[tuple[FloatLayer, np.ndarray], ...]
    made: np.ndarray
    counts: tuple[int, ...]
    layers: frozenset[str]
    touched: frozenset[str]

    def indices(self, kept: np.ndarray) -> np.ndarray:
        """Return what ``take_channels`` takes to keep units, (rows, kept)."""
        return kept if self.group.within else kept[0]

    def first(self, count: int) -> np.ndarray:
        """Return the same for the first units of each row."""
        return self.indices(np.tile(np.arange(count), (self.rows, 1)))


def find_candidates(
    channels: Channels,
    layers: Mapping[str, FloatLayer | str],
    *,
    align: int,
    most: float,
    leave: Callable[[ChannelGroup], str],
) -> Iterator[tuple[ChannelGroup, Candidate | str]]:
    """Yield each group, and how it may lose units or why it may not.

    Args:
        channels: Of the net.
        layers: How each layer with weights can be refitted, or why it cannot, by its name.
        align: What counts of channels are to be multiples of; heads are counted one by one.
        most: The largest share of a group that may go.
        leave: Returns why a group is to be left alone; "" if it is not.
    """
    outer = {group.within for group in channels.groups}
    for group in channels.groups:
        step = 1 if group.name in outer else align
        counts = _counts(group.size, step, most)
        reason = leave(group) or _reason(group, layers)
        if not reason and not counts:
            reason = f"of {group.size} channels no multiple of {step} can go"
        unit = (
            "places of each head"
            if group.within
            else "heads"
            if group.name in outer
            else "channels"
        )
        yield group, reason or _candidate(channels, group, layers, counts, unit)


def _reason(group: ChannelGroup, layers: Mapping[str, FloatLayer | str]) -> str:
    """Return why a group cannot lose units; "" if it can."""
    if group.removable:
        return group.removable
    if group.products and not group.consumers:
        return "what it is summed over in has no weights that could make up for a loss"
    if not group.consumers:
        return "no layer reads it"
    for port in group.consumers:
        layer = layers.get(port.name, "it reads the channels and has no weights to fit")
        if isinstance(layer, str):
            return f"{port.name}: {layer}"
    return ""


def _counts(size: int, step: int, most: float) -> tuple[int, ...]:
    """Return at most ``_STEPS`` multiples of a step, descending, below a size."""
    least = max(step, math.ceil(size * (1.0 - most) / step - 1e-9) * step)
    stride = step * max(1, -(-(size - least) // (step * _STEPS)))
    top = (size - 1) // step * step
    return tuple(range(top, least - 1, -stride))


def _candidate(
    channels: Channels,
    group: ChannelGroup,
    layers: Mapping[str, FloatLayer | str],
    counts: tuple[int, ...],
    unit: str,
) -> Candidate:
    heads = channels.group(group.within) if group.within else None
    readers = []
    for port in group.consumers:
        layer = layers[port.name]
        assert isinstance(layer, FloatLayer), "other groups were left"
        readers.append((layer, _inputs(layer, _by_row(port, heads))))
    rows = heads.size if heads is not None else 1
    made = np.zeros((rows, group.size))
    for port in (*group.producers, *group.through):
        weight = channels.weight(port)
        square = np.square(weight, dtype=np.float64)
        square = square.sum(axis=tuple(axis for axis in range(weight.ndim) if axis != port.axis))
        made += square[_by_row(port, heads)].sum(axis=2) / (square.sum() or 1.0)
    ports = (*group.producers, *group.consumers, *group.through)
    names = frozenset(port.name for port in ports)
    return Candidate(
        group=group,
        unit=unit,
        rows=rows,
        readers=tuple(readers),
        made=made,
        counts=counts,
        layers=names,
        touched=names | channels.holders(group),
    )


def _by_row(port: Port, heads: ChannelGroup | None) -> np.ndarray:
    """Return the places of a port's units, (rows, units, width)."""
    if heads is None:
        return port.positions[None]
    every = (*heads.producers, *heads.consumers, *heads.through)
    whole = next(one for one in every if (one.var, one.axis) == (port.var, port.axis))
    return np.array(
        [[np.intersect1d(head, unit) for unit in port.positions] for head in whole.positions]
    )


def _inputs(layer: FloatLayer, channels: np.ndarray) -> np.ndarray:
    """Return of all taps' inputs those of some channels, (rows, units, width)."""
    weight = layer.layer.weight
    inputs = weight.shape[layer.layer.input_axis]
    taps = 1 if layer.is_matmul else weight.shape[1] * weight.shape[2]
    every = channels[..., None] + inputs * np.arange(taps)
    return every.reshape(*channels.shape[:2], -1)


def gone_inputs(
    mod: tvm.IRModule, kept: Mapping[Candidate, np.ndarray]
) -> list[tuple[FloatLayer, np.ndarray]]:
    """Return the layers that read what goes, in order, and which of their inputs that is.

    Args:
        mod: The net.
        kept: The units that are left of each group, (rows, kept).
    """
    gone: dict[str, np.ndarray] = {}
    layers: dict[str, FloatLayer] = {}
    for one, units in kept.items():
        left = np.zeros((one.rows, one.group.size), bool)
        np.put_along_axis(left, units, True, axis=1)
        for layer, places in one.readers:
            layers[layer.name] = layer
            held = gone.get(layer.name, np.zeros(0, np.int64))
            gone[layer.name] = np.union1d(held, places[~left])
    names = (var.name for var, _ in ir.bindings(mod["main"]))
    return [(layers[name], gone[name]) for name in names if name in gone]


def gains(
    channels: Channels, candidates: Sequence[Candidate], predict: Predict
) -> list[tuple[float, ...]]:
    """Return the share of the net's predicted time that each count of each candidate saves.

    Candidates that have nothing in common are tried together, each told by its own steps' times.
    """
    before = predict(channels.mod)
    whole = sum(before.values())
    result: list[list[float]] = [[] for _ in candidates]
    for together in _apart(candidates):
        for step in range(max(len(candidates[n].counts) for n in together)):
            tried = [n for n in together if step < len(candidates[n].counts)]
            takes = {
                candidates[n].group.name: candidates[n].first(candidates[n].counts[step])
                for n in tried
            }
            after = predict(take_channels(channels, takes))
            for n in tried:
                own = candidates[n].touched
                times = (
                    sum(t for name, t in net.items() if name in own) for net in (before, after)
                )
                old, new = times
                result[n].append((old - new) / whole)
    return [tuple(found) for found in result]


def _apart(candidates: Sequence[Candidate]) -> list[list[int]]:
    """Return the numbers of candidates in sets of such as have no binding in common."""
    sets: list[tuple[set[str], list[int]]] = []
    for n, candidate in enumerate(candidates):
        for names, members in sets:
            if not names & candidate.touched:
                names |= candidate.touched
                members.append(n)
                break
        else:
            sets.append((set(candidate.touched), [n]))
    return [members for _, members in sets]
