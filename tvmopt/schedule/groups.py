"""Put stages that can share their outer loops together.

Before::

    m[i] = max_j x[i, j];  e[i, j] = exp(x[i, j] - m[i]);  y[i, j] = e[i, j] / sum_j e[i, j]

After (one group, shared axis i; m, e and the sum shrink to what one i needs)::

    for i:  m = max_j ...;  for j: e[j] = ...;  s = sum_j e[j];  for j: y[i, j] = e[j] / s

An axis is shared if every stage of the group has it, and every access to what the group stores
between its stages uses it as its index as it is.

Source: none; derived here. It is loop fusion at the outermost levels where no dependence crosses
iterations.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from tvm import tirx

from tvmopt.schedule.expressions import Axis
from tvmopt.schedule.nests import Body


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Stages with common outer loops.

    Attributes:
        bodies: The stages, in order.
        shared: The axes of the common loops; those of the last body.
        names: For each body, which shared variable each of its own stands for.
    """

    bodies: tuple[Body, ...]
    shared: tuple[Axis, ...]
    names: tuple[dict[tirx.Var, tirx.Var], ...]


def form_groups(bodies: list[Body], most_local_elements: int) -> list[Group]:
    """Return the bodies in groups, in order.

    Args:
        bodies: Every stored stage, in order.
        most_local_elements: How many elements a group may keep for one round of its loops.
    """
    groups: list[Group] = []
    for body in bodies:
        if groups:
            joined = _group((*groups[-1].bodies, body))
            if _reads_from(body, groups[-1]) and _worthwhile(joined, most_local_elements):
                groups[-1] = joined
                continue
        groups.append(_group((body,)))
    return groups


def _reads_from(body: Body, group: Group) -> bool:
    written = {buffer for member in group.bodies for buffer in member.stage.buffers}
    return any(load.source in written for load in body.reads)


def _worthwhile(group: Group, most_local_elements: int) -> bool:
    if not group.shared:
        return all(body.stage.size == 1 for body in group.bodies)
    rounds = prod(axis.extent for axis in group.shared)
    local = sum(body.stage.size // rounds for body in group.bodies[:-1])
    return local <= most_local_elements


def _group(bodies: tuple[Body, ...]) -> Group:
    leader = _leaders(bodies)
    classes: dict[tirx.Var, list[Axis]] = {}
    for body in bodies:
        for axis in body.stage.spatial:
            classes.setdefault(leader[axis.var], []).append(axis)
    broken = {leader[var] for var in _broken(bodies)}
    last = bodies[-1].stage.spatial
    shared = tuple(
        axis
        for axis in last
        if leader[axis.var] not in broken and _complete(classes[leader[axis.var]], bodies)
    )
    by_leader = {leader[axis.var]: axis.var for axis in shared}
    names = tuple(
        {
            axis.var: by_leader[leader[axis.var]]
            for axis in body.stage.spatial
            if leader[axis.var] in by_leader
        }
        for body in bodies
    )
    return Group(bodies=bodies, shared=shared, names=names)


def _complete(members: list[Axis], bodies: tuple[Body, ...]) -> bool:
    """Say whether a class holds exactly one axis of each body, all of one extent."""
    if len(members) != len(bodies) or len({axis.extent for axis in members}) != 1:
        return False
    owned = {axis.var for axis in members}
    return all(sum(axis.var in owned for axis in body.stage.spatial) == 1 for body in bodies)


def _links(bodies: tuple[Body, ...]) -> list[tuple[tirx.Var, tirx.Expr]]:
    """Return each axis of what the group stores, with the index that a member reads it by."""
    producer = {buffer: body.stage for body in bodies for buffer in body.stage.buffers}
    found = []
    for body in bodies:
        for load in body.reads:
            stage = producer.get(load.source)
            if stage is not None:
                found += [
                    (own, index)
                    for own, index in zip(stage.indices, load.indices, strict=True)
                    if isinstance(own, tirx.Var)
                ]
    return found


def _leaders(bodies: tuple[Body, ...]) -> dict[tirx.Var, tirx.Var]:
    """Return, for each spatial axis, the variable that stands for its class."""
    parent = {axis.var: axis.var for body in bodies for axis in body.stage.spatial}

    def find(var: tirx.Var) -> tirx.Var:
        while not parent[var].same_as(var):
            var = parent[var]
        return var

    for own, index in _links(bodies):
        if isinstance(index, tirx.Var) and index in parent:
            first, second = find(own), find(index)
            if not first.same_as(second):
                parent[first] = second
    return {var: find(var) for var in parent}


def _broken(bodies: tuple[Body, ...]) -> list[tirx.Var]:
    """Return the axes that some member indexes otherwise than by one of its spatial axes."""
    spatial = {axis.var for body in bodies for axis in body.stage.spatial}
    return [
        own
        for own, index in _links(bodies)
        if not (isinstance(index, tirx.Var) and index in spatial)
    ]
