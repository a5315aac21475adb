"""The layers of a canonical graph and the parts that they play in it."""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import dataclass
from typing import Literal, get_args

import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.passes.canonicalize.rebuild import variables

Role = Literal["first", "last", "conv", "depthwise", "linear"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """A convolution, or a product with a matrix that does not depend on the inputs.

    Attributes:
        name: Of its binding; its kernel carries it too.
        roles: "conv", "depthwise" or "linear"; "first" if no layer comes before it on any way from
            an input, "last" if none comes after it on any way to an output.
        weights: How many numbers its weight has.
    """

    name: str
    roles: frozenset[Role]
    weights: int


def origin(name: str, before: Container[str]) -> str:
    """Return the layer of a net as it was from which one of the changed net comes.

    The parts that a pass makes of a layer ``x`` are called ``x__`` and a word each; the one that
    gives the layer's outputs keeps its name.

    Args:
        name: A layer of the changed net.
        before: The names of all layers of the net as it was.

    Returns:
        A name of ``before``; ``name`` itself where none fits.
    """
    found = name
    while found not in before and "__" in found:
        found = found.rpartition("__")[0]
    return found if found in before else name


def layers_of(mod: tvm.IRModule) -> tuple[Layer, ...]:
    """Return the layers of "main", in order.

    Args:
        mod: Canonical, with static shapes and different names; "main" is a straight line.
    """
    kinds = _kinds(mod["main"])
    behind, before = set[relax.Var](), set[relax.Var]()  # some layer comes earlier; later
    bindings = list(ir.bindings(mod["main"]))
    for var, value in bindings:
        if any(read in behind or read in kinds for read in variables(value)):
            behind.add(var)
    for var, value in reversed(bindings):
        if var in before or var in kinds:
            before.update(variables(value))
    layers = []
    for var, value in bindings:
        if var in kinds:
            roles = {kinds[var]}
            roles |= set() if var in behind else {"first"}
            roles |= set() if var in before else {"last"}
            weights = math.prod(ir.static_shape(value.args[1]))
            layers.append(Layer(name=var.name, roles=frozenset(roles), weights=weights))
    return tuple(layers)


def _kinds(func: relax.Function) -> dict[relax.Var, Role]:
    """Return what each layer is, by its variable, in order."""
    given: set[relax.Var] = set(func.params)  # depends on an input
    found: dict[relax.Var, Role] = {}
    for var, value in ir.bindings(func):
        if not any(read in given for read in variables(value)):
            continue
        given.add(var)
        kind = _kind(value)
        if kind is not None and value.args[1] not in given:
            found[var] = kind
    return found


def _kind(value: relax.Expr) -> Role | None:
    if ir.is_call_to(value, "relax.nn.conv2d", "relax.nn.conv2d_transpose"):
        channels = ir.static_shape(value.args[0])[3]
        return "depthwise" if 1 < value.attrs.groups == channels else "conv"
    return "linear" if ir.is_call_to(value, "relax.matmul") else None
