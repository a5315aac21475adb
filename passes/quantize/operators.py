"""What an operator does to quantized tensors.

* *Elementwise* operators map each element alone: behind a layer they belong to its kernel, between
  two quantized tensors they are a table of 256 entries.
* *Moves* put elements elsewhere, or choose among them: they work on the integers as they are.
* *Combining* operators compute with several elements or tensors, and have integer kernels whose
  inputs and outputs are quantized each with its own scale.

Source: none; the definitions of the operators.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import relax

from tvmopt import forms, ir

UNARY = tuple(
    f"relax.{name}"
    for name in (
        *("nn.relu", "nn.leakyrelu", "nn.silu", "nn.gelu", "nn.gelu_tanh", "nn.softplus"),
        *("nn.selu", "nn.prelu", "clip", "sigmoid", "tanh", "exp", "log", "erf", "sqrt", "rsqrt"),
        *("abs", "negative", "square", "floor", "ceil", "round", "sin", "cos"),
    )
)
BINARY = tuple(
    f"relax.{name}"
    for name in ("add", "subtract", "multiply", "divide", "maximum", "minimum", "power")
)
_MOVES = tuple(
    f"relax.{name}"
    for name in (
        *("reshape", "permute_dims", "expand_dims", "squeeze", "flatten", "broadcast_to"),
        *("strided_slice", "split", "nn.max_pool2d", "max"),
    )
)
_COMBINING = tuple(
    f"relax.{name}"
    for name in (
        *("add", "subtract", "multiply", "maximum", "minimum", "concat"),
        *("nn.avg_pool2d", "nn.adaptive_avg_pool2d", "mean"),
    )
)


def is_elementwise(value: relax.Expr) -> bool:
    """Say whether each element of the result comes from the elements at its place."""
    return ir.is_call_to(value, *UNARY, *BINARY)


def is_move(value: relax.Expr) -> bool:
    """Say whether the result has no elements but the operand's, and zeros."""
    if ir.is_call_to(value, "relax.image.resize2d"):
        return str(value.attrs.method) == "nearest_neighbor"
    if ir.is_call_to(value, "relax.nn.pad"):
        return str(value.attrs.pad_mode) == "constant" and float(value.attrs.pad_value) == 0.0
    return ir.is_call_to(value, *_MOVES)


def is_combining(value: relax.Expr) -> bool:
    """Say whether it computes with several elements and has an integer kernel."""
    return ir.is_call_to(value, *_COMBINING)


def is_byte_cast(value: relax.Expr) -> bool:
    """Say whether 8-bit integers that are not constant become float32."""
    return (
        ir.is_call_to(value, "relax.astype")
        and str(value.attrs.dtype) == "float32"
        and isinstance(value.args[0], relax.Var)
        and ir.dtype(value.args[0]) in ("uint8", "int8")
    )


def byte_dequantize(value: relax.Expr) -> forms.Affine | None:
    """Return what 8-bit integers that are not constant mean, if they have one scale for all."""
    found = forms.match_dequantize(value)
    if found is None or not isinstance(found[0], relax.Var) or found[1].scale.ndim:
        return None
    return found[1] if found[1].dtype in ("uint8", "int8") else None


def is_float(expr: relax.Expr) -> bool:
    """Say whether it is a float32 tensor."""
    return isinstance(expr.ty, relax.TensorType) and ir.dtype(expr) == "float32"


def operands(value: relax.Expr) -> Sequence[relax.Expr]:
    """Return the operands of a call, of a tuple, or what a tuple's field is taken from."""
    if isinstance(value, relax.TupleGetItem):
        return [value.tuple_value]
    if isinstance(value, relax.Tuple):
        return list(value.fields)
    if not isinstance(value, relax.Call):
        return []
    flat: list[relax.Expr] = []
    for arg in value.args:
        flat.extend(arg.fields if isinstance(arg, relax.Tuple) else [arg])
    return flat
