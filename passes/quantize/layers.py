"""The layers of a canonical graph that have weights, and which of them a pass is asked to take.

A layer is a conv2d (NHWC, OHWI) or a matmul by a matrix, with a constant float32 weight::

    y = conv2d | matmul(x, weight)
    z = add(y, bias)                    where nothing else reads y, and the bias is one a channel

Its name is that of the operator's variable; patterns may name the sum's variable as well.

Source: none; the definitions of the operators.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
from tvm import relax

from tvmopt import ir
from tvmopt.errors import OptionError
from tvmopt.passes.canonicalize.rebuild import variables

_LAYOUTS = ("NHWC", "OHWI", "NHWC")
_SHOWN = 6  # layers that a message names


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Layer:
    """One operator with a weight.

    Attributes:
        var: The operator's variable.
        weight: (outputs, kh, kw, inputs) of a conv2d, (inputs, outputs) of a matmul; float32.
        axis: The axis of the outputs in the weight.
        depthwise: Whether each group of a convolution has one input channel, and there are several.
        bias: (outputs,) float32; None where there is none.
        bias_var: The sum's variable; None where there is none.
        first: Whether no other layer is on any way from the inputs to it.
        last: Whether no other layer is on any way from it to the outputs.
    """

    var: relax.Var
    weight: np.ndarray
    axis: int
    depthwise: bool
    bias: np.ndarray | None
    bias_var: relax.Var | None
    first: bool
    last: bool

    @property
    def name(self) -> str:
        """The layer's name."""
        return self.var.name

    @property
    def is_matmul(self) -> bool:
        """Say whether it is a matmul."""
        return self.weight.ndim == 2

    @property
    def input_axis(self) -> int:
        """The axis of the inputs in the weight, of one group's for a grouped convolution."""
        return 0 if self.is_matmul else 3

    @property
    def outputs(self) -> int:
        """The number of outputs."""
        return self.weight.shape[self.axis]

    def matches(self, pattern: str) -> bool:
        """Say whether a pattern, as of a shell, fits the layer's name or that of its sum."""
        names = [self.name] if self.bias_var is None else [self.name, self.bias_var.name]
        return any(fnmatchcase(name, pattern) for name in names)


def find_layers(func: relax.Function) -> dict[relax.Var, Layer]:
    """Return the layers of a function by their operators' variables, in order."""
    values = dict(ir.bindings(func))
    users: dict[relax.Var, list[relax.Var]] = {}
    for var, value in values.items():
        for read in variables(value):
            users.setdefault(read, []).append(var)
    weights = {
        var: weight
        for var, value in values.items()
        if isinstance(value, relax.Call) and (weight := _weight(value)) is not None
    }
    behind = _reached(values.keys(), lambda var: variables(values[var]), weights)
    before = _reached(reversed(values), lambda var: iter(users.get(var, [])), weights)
    found = {}
    for var, weight in weights.items():
        call = values[var]
        axis = 1 if weight.ndim == 2 else 0
        bias_var, bias = _bias(var, weight.shape[axis], values, users)
        depthwise = weight.ndim == 4 and weight.shape[3] == 1 and int(call.attrs.groups) > 1
        found[var] = Layer(
            var=var,
            weight=weight,
            axis=axis,
            depthwise=depthwise,
            bias=bias,
            bias_var=bias_var,
            first=var not in behind,
            last=var not in before,
        )
    return found


def select(
    layers: Iterable[Layer], patterns: Sequence[str], skip: Mapping[str, str]
) -> tuple[list[Layer], list[tuple[Layer, str]]]:
    """Divide layers into those to take and those to leave, with the reason.

    Args:
        layers: All layers.
        patterns: At least one must match a layer that is taken.
        skip: Layers that are not, by name, and why.

    Raises:
        OptionError: A pattern or a name of ``skip`` matches no layer.
    """
    every = list(layers)
    check_patterns(every, [*patterns, *skip])
    taken, left = [], []
    for layer in every:
        reason = next((why for name, why in skip.items() if layer.matches(name)), None)
        if reason is None and not any(layer.matches(pattern) for pattern in patterns):
            reason = "no pattern of 'layers' matches it"
        if reason is None:
            taken.append(layer)
        else:
            left.append((layer, reason))
    return taken, left


def check_patterns(layers: Sequence[Layer], patterns: Iterable[str]) -> None:
    """Check that each pattern matches a layer; "*" may match none.

    Raises:
        OptionError: One does not.
    """
    for pattern in patterns:
        if pattern != "*" and not any(layer.matches(pattern) for layer in layers):
            names = [layer.name for layer in layers[:_SHOWN]]
            more = ", ..." if len(layers) > _SHOWN else ""
            raise OptionError(
                f"layer pattern {pattern!r} must match a layer, and matches none of the "
                f"{len(layers)}: {', '.join(names)}{more}"
            )


def _weight(call: relax.Call) -> np.ndarray | None:
    if ir.is_call_to(call, "relax.nn.conv2d"):
        attrs = call.attrs
        if (attrs.data_layout, attrs.kernel_layout, attrs.out_layout) != _LAYOUTS:
            return None
    elif not ir.is_call_to(call, "relax.matmul") or len(ir.shape(call.args[1])) != 2:
        return None
    if not isinstance(call.args[0], relax.Var):
        return None
    weight = ir.float_constant(call.args[1])
    return weight if weight is not None and weight.dtype == np.float32 else None


def _bias(
    var: relax.Var,
    outputs: int,
    values: Mapping[relax.Var, relax.Expr],
    users: Mapping[relax.Var, list[relax.Var]],
) -> tuple[relax.Var | None, np.ndarray | None]:
    readers = users.get(var, [])
    total = values[readers[0]] if len(readers) == 1 else None
    if not ir.is_call_to(total, "relax.add"):
        return None, None
    bias = ir.float_constant(total.args[1] if total.args[0].same_as(var) else total.args[0])
    if bias is None or bias.size != outputs or bias.shape[-1:] != (outputs,):
        return None, None
    # A bias of more dimensions than the result would give the sum another shape.
    if bias.ndim > len(ir.shape(var)):
        return None, None
    return readers[0], bias.reshape(-1)


def _reached(
    order: Iterable[relax.Var],
    neighbours: Callable[[relax.Var], Iterable[relax.Var]],
    weights: Mapping[relax.Var, np.ndarray],
) -> set[relax.Var]:
    """Return the variables that have a layer among the neighbours or beyond them."""
    found: set[relax.Var] = set()
    for var in order:
        if any(other in weights or other in found for other in neighbours(var)):
            found.add(var)
    return found


def transposed_convolutions(func: relax.Function) -> Iterator[str]:
    """Yield the names of the transposed convolutions, which have weights and no integer form."""
    for var, value in ir.bindings(func):
        if ir.is_call_to(value, "relax.nn.conv1d_transpose", "relax.nn.conv2d_transpose"):
            yield var.name
