"""The labels of a graph while its operators are gone through.

Source: none; derived here. For the idea, see ``channel_labels``.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import relax

from tvmopt import ir
from tvmopt.passes.prune.channel_labels import Axes, Axis, Labels

Place = tuple[relax.Var, int]
"""A constant operand: of the value of a variable, and which."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Weight:
    """Where the channels are in the weight of a convolution or matmul.

    Attributes:
        output_axis: Of its outputs.
        input_axis: Of its inputs, of one group's for a grouped convolution.
        groups: The axis of the groups; none where there is one.
    """

    output_axis: int
    input_axis: int
    groups: Axis


class Labelling:
    """The labels of "main".

    Attributes:
        labels: Which places are the same.
        axes: Of each variable that is a tensor.
        fields: Of each variable that is a tuple.
        constants: The axes of each constant operand that has labels.
        weights: Of the convolutions and matmuls by a constant.
        contracted: What is summed over in a product of two tensors, neither of them constant.
    """

    def __init__(self, func: relax.Function) -> None:
        """Label the parameters, all of whose places stay."""
        self.labels = Labels()
        self.axes: dict[relax.Var, Axes] = {}
        self.fields: dict[relax.Var, list[Axes]] = {}
        self.constants: dict[Place, Axes] = {}
        self.weights: dict[relax.Var, Weight] = {}
        self.contracted: dict[relax.Var, Axis] = {}
        for param in func.params:
            self.axes[param] = self.stay(param)

    def unknown(self, var: relax.Var, value: relax.Expr) -> None:
        """Let everything around a value stay as it is."""
        name = value.op.name if isinstance(value, relax.Call) else type(value).__name__
        why = f"{var.name} ({name.removeprefix('relax.')}) reads it"
        for arg in value.args if isinstance(value, relax.Call) else [value]:
            self.fix(arg, why)
        if isinstance(var.ty, relax.TupleType):
            tensors = [f for f in var.ty.fields if isinstance(f, relax.TensorType)]
            self.fields[var] = [self.stay(relax.Var("field", t)) for t in tensors]
        elif isinstance(var.ty, relax.TensorType):
            self.axes[var] = self.stay(var)

    def fix(self, expr: relax.Expr, why: str) -> None:
        """Let no place of an operand go or change."""
        if isinstance(expr, relax.Tuple):
            for field in expr.fields:
                self.fix(field, why)
        elif isinstance(expr, relax.TupleGetItem):
            self.fix(expr.tuple_value, why)
        elif isinstance(expr, relax.Var):
            every = [self.axes[expr]] if expr in self.axes else self.fields.get(expr, [])
            for axis in (axis for axes in every for axis in axes):
                self.labels.fix(axis, why)

    def stay(self, expr: relax.Expr) -> Axes:
        """Return axes all of whose places stay."""
        if not isinstance(expr.ty, relax.TensorType):
            return ()
        return tuple(self.labels.stay(size) for size in ir.static_shape(expr))

    def operand(self, expr: relax.Expr) -> Axes | None:
        """Return the axes of an operand; None for a constant and for what is no tensor."""
        return self.axes.get(expr) if isinstance(expr, relax.Var) else None
