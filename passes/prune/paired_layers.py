"""The layers of a changed net of floats beside those of the net as it was.

Layers go by their names. One that lost or reordered outputs is compared with those outputs of the
net as it was that it still has; a part of a layer that was factorized has nothing to be compared
with, but for the part that gives the layer's outputs.

Source: none; derived here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.passes.prune.float_layers import FloatLayer, float_layers
from tvmopt.passes.quantize.hessian import Patches
from tvmopt.passes.quantize.layers import Layer, find_layers


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PairedFloats:
    """A layer that can be fitted to what it gave in the net as it was.

    Attributes:
        own: The layer in the net that changes.
        reference: Its operator's variable in the net as it was.
        reference_bias: (outputs,) float64, the bias there, of the outputs that it still has.
        chosen: Which outputs of the net as it was these are; None: all, in order.
    """

    own: FloatLayer
    reference: relax.Var
    reference_bias: np.ndarray | None
    chosen: np.ndarray | None

    @property
    def name(self) -> str:
        """The layer's name, in both nets."""
        return self.own.name

    @property
    def var(self) -> relax.Var:
        """The operator's variable in the net that changes."""
        return self.own.var

    @property
    def data(self) -> relax.Var:
        """What it reads there."""
        return self.own.data

    @property
    def patches(self) -> Patches:
        """How the operator reads its data."""
        return self.own.patches

    @property
    def is_matmul(self) -> bool:
        """Whether it is a matmul."""
        return self.own.is_matmul

    def wanted(self, outputs: np.ndarray) -> np.ndarray:
        """Return, of the outputs in the net as it was, those that it still has."""
        return outputs if self.chosen is None else outputs[..., self.chosen]


def paired_layers(
    mod: tvm.IRModule, reference: tvm.IRModule, outputs: Mapping[str, np.ndarray]
) -> Iterator[tuple[Layer, PairedFloats | str]]:
    """Yield each layer of ``mod``, in order, and how it is fitted, or why it cannot be.

    Args:
        mod: The net that changes, of floats, with distinct names.
        reference: The net as it was, with distinct names.
        outputs: For each layer that lost or reordered outputs, by name: the numbers that they had.
    """
    before = {layer.name: layer for layer in find_layers(reference["main"]).values()}
    place = {var: i for i, (var, _) in enumerate(ir.bindings(reference["main"]))}
    reached = -1
    for layer, own in float_layers(mod, mod):
        old = before.get(layer.name)
        if isinstance(own, str):
            yield layer, own.replace("pruned", "fitted")
        elif old is None:
            yield layer, "the net as it was has no such layer to compare with"
        elif place[old.var] <= reached:
            yield layer, "the net as it was computes it in another order"
        else:
            found = _pair(layer, own, old, outputs.get(layer.name))
            reached = reached if isinstance(found, str) else place[old.var]
            yield layer, found


def _pair(
    layer: Layer, own: FloatLayer, old: Layer, chosen: np.ndarray | None
) -> PairedFloats | str:
    count = old.outputs if chosen is None else len(chosen)
    if layer.outputs != count:
        return f"it has {layer.outputs} outputs, and nobody knows which of {old.outputs}"
    bias = None
    if layer.bias is not None:
        bias = np.zeros(old.outputs) if old.bias is None else old.bias.astype(np.float64)
        bias = bias if chosen is None else bias[chosen]
    elif old.bias is not None:
        return "it lost its bias"
    return PairedFloats(own=own, reference=old.var, reference_bias=bias, chosen=chosen)
