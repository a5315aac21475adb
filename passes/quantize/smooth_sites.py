"""Find the tensors whose channels can be scaled against the weights that read them.

Source: none; see ``smooth_quant``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.passes.quantize import operators
from tvmopt.passes.quantize.layers import Layer, find_layers
from tvmopt.passes.quantize.net_pair import Leave
from tvmopt.passes.quantize.weight_layers import Reader


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SmoothSite:
    """A tensor whose last axis is channels.

    Attributes:
        var: Its variable.
        readers: The layers that read it, of which each weighs each channel.
        norm: Whether a layer norm gives it, which takes the scale up.
        others: How many others read it.
    """

    var: relax.Var
    readers: tuple[Layer, ...]
    norm: bool
    others: int

    def weights(self) -> list[np.ndarray]:
        """Return what reads each channel, by layer: (channels, taps, outputs) float64."""
        return [_by_channel(layer).astype(np.float64) for layer in self.readers]


def _by_channel(layer: Layer) -> np.ndarray:
    if layer.is_matmul:
        return layer.weight[:, None, :]
    turned = layer.weight.transpose(3, 1, 2, 0)
    return turned.reshape(turned.shape[0], -1, turned.shape[3])


def find_sites(mod: tvm.IRModule, leave: Leave | None) -> Iterator[SmoothSite]:
    """Yield what layer norms give to layers; and, with ``leave``, what other kernels give them.

    Args:
        mod: Its names differ.
        leave: Says which layers stay in floats, where a product would be in vain; None: norms only.
    """
    graph, layers = Reader(mod), find_layers(mod["main"])
    for var, value in graph.values.items():
        users = graph.users.get(var, [])
        readers = tuple(_reading(graph, layers, var, users))
        if not readers or (isinstance(graph.result, relax.Var) and graph.result.same_as(var)):
            continue
        norm, others = _is_norm(var, value), len(users) - len(readers)
        if norm or (
            leave is not None
            and not others
            # What moves elements, and a model's input, has no kernel that could do the product.
            and (var in layers or operators.is_elementwise(value))
            and operators.is_float(var)
            and not any(leave(layer.name) for layer in readers)
        ):
            yield SmoothSite(var=var, readers=readers, norm=norm, others=others)


def _reading(
    graph: Reader, layers: Mapping[relax.Var, Layer], var: relax.Var, users: list[relax.Var]
) -> Iterator[Layer]:
    for user in users:
        value = graph.values[user]
        if user not in layers or not value.args[0].same_as(var):
            continue
        if layers[user].is_matmul or int(value.attrs.groups) == 1:
            yield layers[user]


def _is_norm(var: relax.Var, value: relax.Expr) -> bool:
    """Say whether it is a layer norm over the last axis with constant gamma and beta."""
    if not ir.is_call_to(value, "relax.nn.layer_norm"):
        return False
    rank = len(ir.shape(var))
    last = [int(axis) % rank for axis in value.attrs.axes] == [rank - 1]
    return last and all(ir.float_constant(arg) is not None for arg in value.args[1:])
