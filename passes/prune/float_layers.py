"""The layers of a graph of floats that can be pruned, beside the same layers as they were.

A layer is a conv2d (NHWC, OHWI, one group) or a matmul by a matrix, with a constant weight::

    y = conv2d | matmul(x, weight)
    z = add(y, bias)                    where nothing else reads y, and the bias is one a channel

Source: none; the definitions of the operators.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from tvmopt import forms, ir
from tvmopt.passes.quantize.hessian import Patches
from tvmopt.passes.quantize.layers import Layer, find_layers
from tvmopt.passes.quantize.weight_layers import Change, patches_of


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FloatLayer:
    """A layer that can be pruned.

    Attributes:
        layer: The layer in the graph that changes.
        data: What it reads there.
        reference: Its operator's variable in the graph as it was.
        patches: How the operator reads its data.
        run: Inputs of one run of taps: those that lie side by side in memory.
    """

    layer: Layer
    data: relax.Var
    reference: relax.Var
    patches: Patches
    run: int

    @property
    def name(self) -> str:
        """The layer's name."""
        return self.layer.name

    @property
    def var(self) -> relax.Var:
        """The operator's variable."""
        return self.layer.var

    @property
    def is_matmul(self) -> bool:
        """Whether it is a matmul."""
        return self.layer.is_matmul

    @property
    def reference_bias(self) -> np.ndarray | None:
        """The bias, (outputs,) float64."""
        return None if self.layer.bias is None else self.layer.bias.astype(np.float64)

    def rows(self) -> np.ndarray:
        """Return the weight as (outputs, inputs) float64, the bias behind it."""
        weight = self.layer.weight
        flat = weight.T if self.is_matmul else weight.reshape(len(weight), -1)
        flat = flat.astype(np.float64)
        bias = self.reference_bias
        return flat if bias is None else np.concatenate([flat, bias[:, None]], axis=1)

    def changes(self, rows: np.ndarray) -> Iterator[Change]:
        """Yield what must change for the weight and bias to be those of ``rows()``'s form."""
        layer, own = self.layer, rows if self.layer.bias is None else rows[:, :-1]
        weight = own.T if self.is_matmul else own.reshape(layer.weight.shape)
        constant = relax.const(np.ascontiguousarray(weight, np.float32))

        def product(value: relax.Expr, _emit: forms.Emit) -> relax.Expr:
            return ir.with_changes(value, [value.args[0], constant])

        def total(value: relax.Expr, _emit: forms.Emit) -> relax.Expr:
            place = 1 if ir.float_constant(value.args[1]) is not None else 0
            args = list(value.args)
            shape = ir.static_shape(args[place])
            args[place] = relax.const(rows[:, -1].astype(np.float32).reshape(shape))
            return ir.with_changes(value, args)

        yield layer.var, product
        if layer.bias_var is not None:
            yield layer.bias_var, total


def float_layers(
    mod: tvm.IRModule, reference: tvm.IRModule
) -> Iterator[tuple[Layer, FloatLayer | str]]:
    """Yield each layer of ``mod``, and how it can be pruned or why it cannot.

    Args:
        mod: A graph of floats with distinct names.
        reference: The same graph.
    """
    before = {var.name: var for var, _ in ir.bindings(reference["main"])}
    values = dict(ir.bindings(mod["main"]))
    for var, layer in find_layers(mod["main"]).items():
        call = values[var]
        patches = patches_of(call, layer.weight)
        if patches is None or not isinstance(call.args[0], relax.Var):
            yield layer, "only matmuls by a matrix and NHWC convolutions can be pruned"
        elif patches.groups != 1:
            yield layer, "grouped and depthwise convolutions have too few weights an output"
        else:
            run = layer.weight.shape[0] if layer.is_matmul else int(np.prod(layer.weight.shape[2:]))
            yield (
                layer,
                FloatLayer(
                    layer=layer,
                    data=call.args[0],
                    reference=before[var.name],
                    patches=patches,
                    run=run,
                ),
            )
