"""What a converter sees of an ONNX node, and what it may ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir
from tvm import relax

from tvmopt import ir
from tvmopt.errors import UnsupportedError


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One ONNX node whose inputs are already Relax expressions.

    Attributes:
        name: The node's name, else its first output's.
        op_type: The ONNX operator.
        opset: Version of the node's operator set.
        attributes: By name, as in the file.
        inputs: One an input; None where an optional one is left out.
        outputs: How many outputs the node has.
        builder: Where further bindings go.
    """

    name: str
    op_type: str
    opset: int
    attributes: Mapping[str, onnx_ir.Attr]
    inputs: tuple[relax.Expr | None, ...]
    outputs: int
    builder: relax.BlockBuilder

    def has(self, index: int) -> bool:
        """Say whether the optional input at ``index`` is there."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def input(self, index: int) -> relax.Expr:
        """Return the input at ``index``.

        Raises:
            UnsupportedError: It is left out.
        """
        value = self.inputs[index] if index < len(self.inputs) else None
        if value is None:
            raise UnsupportedError(f"input {index} must be given")
        return value

    def constant(self, index: int, what: str) -> np.ndarray:
        """Return the value of the input at ``index``, which ``what`` names.

        Raises:
            UnsupportedError: Its value depends on the data.
        """
        value = ir.constant(self.input(index))
        if value is None:
            raise UnsupportedError(f"{what} must be constant, got a value computed from the data")
        return value

    def ints_input(self, index: int, what: str) -> list[int]:
        """Return the constant input at ``index`` as a list of integers."""
        return [int(i) for i in self.constant(index, what).reshape(-1)]

    def attribute(self, name: str, default: Any) -> Any:
        """Return an attribute's value (int, float, str, or a list of one of them)."""
        attr = self.attributes.get(name)
        if attr is None:
            return default
        return attr.value if not isinstance(attr.value, tuple) else list(attr.value)

    def emit(self, expr: relax.Expr) -> relax.Expr:
        """Bind an intermediate result, so that its shape and type can be asked for."""
        if isinstance(expr, relax.Var) or ir.is_constant(expr):
            return expr
        return self.builder.emit(expr)


# Returns one expression an output.
Converter = Callable[[Node], relax.Expr | tuple[relax.Expr, ...]]


def shape(expr: relax.Expr) -> list[int]:
    """Return the static shape of a tensor."""
    dims = ir.shape(expr)
    assert all(isinstance(d, int) for d in dims), "every binding of an imported graph is static"
    return [int(d) for d in dims]


def rank(expr: relax.Expr) -> int:
    """Return the number of dimensions of a tensor."""
    return len(ir.shape(expr))


def axis_of(axis: int, rank: int) -> int:
    """Return a possibly negative axis as one in [0, rank).

    Raises:
        UnsupportedError: It lies outside [-rank, rank).
    """
    if not -rank <= axis < rank:
        raise UnsupportedError(f"an axis must lie in [{-rank}, {rank}), got {axis}")
    return axis % rank


def constant(value: np.ndarray) -> relax.Expr:
    """Return a constant tensor; relax.const alone would make int64 int32 and float64 float32."""
    return relax.const(np.asarray(value, order="C"), str(value.dtype))


def scalar(value: float, like: relax.Expr) -> relax.Expr:
    """Return a constant scalar of the element type of ``like``."""
    return relax.const(value, ir.dtype(like))


def reshape(expr: relax.Expr, dims: list[int]) -> relax.Expr:
    """Return ``expr`` under another shape of the same size; constants are reshaped now."""
    if shape(expr) == dims:
        return expr
    value = ir.constant(expr)
    if value is not None:
        return constant(value.reshape(dims))
    return relax.op.reshape(expr, dims)
