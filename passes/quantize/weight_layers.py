"""Find the layers whose stored weights can be changed, beside the same layers in floats.

A layer is a conv2d (NHWC, OHWI) or a matmul by a matrix whose second operand is a constant of
integers: quantized statically, dynamically or in its weights only, it reads the same::

    y = conv2d | matmul(x, weight)              weight: one of ``forms.Dequantized``, ``Grouped``
    z = add(y, bias)                            optional; floats, or int32 in units of sx * sw

The *reference* is the graph before it was quantized, where the binding of the same name holds the
weight as floats.

Source: none; the definitions of the operators.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import tvm
from tvm import relax

from tvmopt import forms, ir
from tvmopt.passes.canonicalize.rebuild import variables
from tvmopt.passes.quantize.hessian import Patches

Note = Callable[[str, str], None]
"""Takes a layer's name and the reason why it is left alone."""
Build = Callable[[relax.Expr, forms.Emit], relax.Expr]
"""Makes, of what a variable is bound to, what it is to be bound to instead."""
Change = tuple[relax.Var, Build]
"""A variable, and what it is to be bound to."""


class Reader:
    """Who defines and who reads each variable of "main".

    Attributes:
        params: Its parameters.
        values: The value of each variable, in order.
        named: Each variable by its name.
        users: The variables whose values read a variable.
        result: What "main" returns.
    """

    def __init__(self, mod: tvm.IRModule) -> None:
        func = mod["main"]
        self.params = list(func.params)
        self.values: dict[relax.Var, relax.Expr] = dict(ir.bindings(func))
        self.named = {var.name: var for var in self.values}
        self.users: dict[relax.Var, list[relax.Var]] = {}
        self.result = func.body.body
        for var, value in self.values.items():
            for read in dict.fromkeys(variables(value)):
                self.users.setdefault(read, []).append(var)

    def define(self, expr: relax.Expr) -> relax.Expr:
        """Return what a variable is bound to; anything else is its own definition."""
        return self.values.get(expr, expr) if isinstance(expr, relax.Var) else expr

    def only_user(self, var: relax.Var) -> relax.Var | None:
        """Return the one variable whose value reads ``var``; None if there are more or fewer."""
        users = self.users.get(var, [])
        alone = len(users) == 1 and not (isinstance(self.result, relax.Var) and self.result == var)
        return users[0] if alone else None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Bias:
    """The constant that is added to a layer's outputs.

    Attributes:
        var: The sum's variable.
        place: Which operand of the sum it is.
        held: The variable bound to the constant; None where the constant stands in the sum itself.
        value: (outputs,) float64: what it is worth.
        shape: Of the constant.
        data: How the layer's data is quantized, where the bias counts in units of sx * sw; else
            None, and the bias is float32.
    """

    var: relax.Var
    place: int
    held: relax.Var | None
    value: np.ndarray
    shape: tuple[int, ...]
    data: forms.Affine | None


class PairedLayer(Protocol):
    """A layer of a compressed graph beside the same one in floats; see ``WeightLayer``."""

    @property
    def name(self) -> str:
        """Of its operator's binding, in both graphs."""
        ...

    @property
    def var(self) -> relax.Var:
        """The operator's variable in the compressed graph."""
        ...

    @property
    def data(self) -> relax.Var:
        """What it reads there."""
        ...

    @property
    def reference(self) -> relax.Var:
        """The operator's variable in the graph of floats."""
        ...

    @property
    def reference_bias(self) -> np.ndarray | None:
        """(outputs,) float64, the bias there; None where there is none."""
        ...

    @property
    def patches(self) -> Patches:
        """How the operator reads its data."""
        ...

    @property
    def is_matmul(self) -> bool:
        """Whether it is a matmul."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WeightLayer:
    """A layer that can be changed.

    Attributes:
        name: Of its operator's binding, in both graphs.
        var: The operator's variable in the quantized graph.
        data: What it reads there.
        held: The variable bound to the weight there.
        stored: The weight there.
        bias: The bias there; None where there is none, or none that can be changed.
        reference: The operator's variable in the graph of floats.
        weight: The weight there, in its own layout.
        reference_bias: (outputs,) float64, the bias there; None as ``bias``.
        patches: How the operator reads its data.
    """

    name: str
    var: relax.Var
    data: relax.Var
    held: relax.Var
    stored: forms.Dequantized | forms.Grouped
    bias: Bias | None
    reference: relax.Var
    weight: np.ndarray
    reference_bias: np.ndarray | None
    patches: Patches

    @property
    def is_matmul(self) -> bool:
        """Say whether it is a matmul: weights (k, n), not OHWI."""
        return self.weight.ndim == 2

    @property
    def output_axis(self) -> int:
        """The axis of the outputs in the weight."""
        return 1 if self.is_matmul else 0

    def rows(self, values: np.ndarray) -> np.ndarray:
        """Return numbers shaped as the weight as (groups, outputs of a group, inputs) float64."""
        flat = values.T if self.is_matmul else values.reshape(values.shape[0], -1)
        groups = self.patches.groups
        return flat.reshape(groups, len(flat) // groups, -1).astype(np.float64)

    def unrowed(self, rows: np.ndarray) -> np.ndarray:
        """Return (groups, outputs of a group, inputs) in the weight's own layout."""
        flat = rows.reshape(-1, rows.shape[-1])
        own = flat.T if self.is_matmul else flat.reshape(self.weight.shape)
        return np.ascontiguousarray(own)

    def with_bias(self, rows: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
        """Return (groups, outputs, inputs) with a bias, (all outputs,), behind; None adds none."""
        if bias is None:
            return rows
        return np.concatenate([rows, bias.reshape(*rows.shape[:2], 1)], axis=-1)


def find_layers(mod: tvm.IRModule, reference: tvm.IRModule, note: Note) -> Iterator[WeightLayer]:
    """Yield the layers of ``mod`` that can be changed, in order.

    Args:
        mod: A quantized graph with distinct names.
        reference: The graph before, with distinct names.
        note: Takes the layers of integers that cannot be changed, and why.
    """
    new, old = Reader(mod), Reader(reference)
    for var, value in new.values.items():
        if not ir.is_call_to(value, "relax.nn.conv2d", "relax.matmul"):
            continue
        stored = forms.match_stored(value.args[1], new.define)
        if stored is None:
            continue
        found = _layer(new, old, var, stored)
        if isinstance(found, str):
            note(var.name, found)
        else:
            yield found


def _layer(new: Reader, old: Reader, var: relax.Var, stored: forms.Stored) -> WeightLayer | str:
    call, before = new.values[var], old.named.get(var.name)
    held, data = call.args[1], call.args[0]
    if not isinstance(stored, forms.Dequantized | forms.Grouped):
        return "its weight is not stored as integers with scales"
    if before is None or not ir.is_call_to(old.values[before], call.op.name):
        return "the graph of floats has no such operator"
    weight = ir.float_constant(old.values[before].args[1])
    if weight is None or weight.shape != stored.shape:
        return "the graph of floats has another weight there"
    if not isinstance(held, relax.Var) or new.only_user(held) is None:
        return "its weight is shared with another operator"
    patches = patches_of(call, weight)
    if patches is None or not isinstance(data, relax.Var):
        return "only matmuls by a matrix and NHWC convolutions can be repaired"
    bias, old_bias = _bias(new, var, call, stored), _bias(old, before, old.values[before], None)
    both = bias is not None and old_bias is not None
    return WeightLayer(
        name=var.name,
        var=var,
        data=data,
        held=held,
        stored=stored,
        bias=bias if both else None,
        reference=before,
        weight=weight,
        reference_bias=old_bias.value if both and old_bias is not None else None,
        patches=patches,
    )


def patches_of(call: relax.Call, weight: np.ndarray) -> Patches | None:
    """Return how an operator reads its data; None where it is not NHWC and OHWI."""
    if ir.is_call_to(call, "relax.matmul"):
        return Patches() if weight.ndim == 2 else None
    attrs = call.attrs
    layouts = (attrs.data_layout, attrs.kernel_layout, attrs.out_layout)
    if layouts != ("NHWC", "OHWI", "NHWC"):
        return None
    return Patches(
        kernel=(weight.shape[1], weight.shape[2]),
        strides=ir.pair(attrs.strides),
        padding=ir.sides(attrs.padding),
        dilation=ir.pair(attrs.dilation),
        groups=int(attrs.groups),
    )


def _bias(
    graph: Reader, var: relax.Var, call: relax.Call, stored: forms.Stored | None
) -> Bias | None:
    """Return the bias behind an operator where it, and nothing else, reads the result."""
    user = graph.only_user(var)
    total = None if user is None else graph.values[user]
    if user is None or not ir.is_call_to(total, "relax.add"):
        return None
    place = 1 if total.args[0].same_as(var) else 0
    other = total.args[place]
    outputs = ir.static_shape(var)[-1]
    plain = ir.float_constant(other)
    if plain is not None:
        if plain.size != outputs or plain.shape[-1:] != (outputs,):
            return None
        value = plain.reshape(-1).astype(np.float64)
        return Bias(var=user, place=place, held=None, value=value, shape=plain.shape, data=None)
    if not isinstance(stored, forms.Dequantized) or not isinstance(other, relax.Var):
        return None
    data = forms.match_dequantize(graph.define(call.args[0]))
    kept = forms.match_stored(other, graph.define)
    if data is None or not isinstance(kept, forms.Dequantized):
        return None
    codes = forms.match_bias(other, graph.define, data[1], stored.how)
    if codes is None or codes.size != outputs or graph.only_user(other) is None:
        return None
    value = kept.value().reshape(-1).astype(np.float64)
    return Bias(
        var=user, place=place, held=other, value=value, shape=kept.codes.shape, data=data[1]
    )


def change_bias(bias: Bias, stored: forms.Stored, value: np.ndarray) -> Change:
    """Return what must change for a layer's bias to be ``value``, (outputs,) float64.

    Args:
        bias: The bias at hand.
        stored: The layer's weight as it will be.
        value: The new one.
    """
    if bias.data is None or not isinstance(stored, forms.Dequantized):
        plain = relax.const(value.astype(np.float32).reshape(bias.shape))
        places = (0, 1)
        return bias.var, lambda total, _: ir.with_changes(
            total, [plain if i == bias.place else total.args[i] for i in places]
        )
    assert bias.held is not None
    held, how = bias.held, forms.bias_how(bias.data, stored.how, len(bias.shape) - 1)
    limits = np.iinfo(np.int32)
    # As wide as accumulators are; nothing that was calibrated comes near the ends.
    codes = np.clip(np.rint(value / how.scale.astype(np.float64)), limits.min, limits.max)
    constant = forms.Dequantized(codes=codes.astype(np.int32).reshape(bias.shape), how=how)
    return held, lambda _, emit: constant.build(emit, held.name)
