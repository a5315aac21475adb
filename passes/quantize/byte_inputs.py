"""Find what bytes that a model takes already mean, so that no quantize stands before a layer.

In the graph, for x: bytes, and numbers a and b::

    y = a * astype(x, "float32") + b        in any spelling by single numbers, or no a and b at all

y is ``dequantize(x, a, z)`` if z = -b / a is a byte: then zero, with which convolutions pad, is one
of the integers. The result differs from the spelled-out one by the roundings of its steps. What is
a ``dequantize`` already, in a model that is quantized in parts, keeps its meaning.

Source: none; derived here.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tvm import relax

from tvmopt import forms, ir
from tvmopt.passes.quantize import operators

Line = tuple[float, float]

# How far a zero point may be from an integer: the rounding of a float32 b / a of up to 255.
_NEAR = 2.0**-14


def byte_meanings(values: Mapping[relax.Var, relax.Expr]) -> dict[relax.Var, forms.Affine]:
    """Return how bytes that a function takes stand for tensors made of them.

    Args:
        values: Of the function's variables, in order.
    """
    lines: dict[relax.Var, tuple[Line, relax.Expr]] = {}
    found: dict[relax.Var, forms.Affine] = {}
    for var, value in values.items():
        given = operators.byte_dequantize(value)
        if given is not None:
            found[var] = given
        known = _line(value, lines)
        if known is None:
            continue
        lines[var] = known
        how = _meaning(*known)
        if how is not None:
            found[var] = how
    return found


def source_of(var: relax.Var, values: Mapping[relax.Var, relax.Expr]) -> relax.Expr:
    """Return the bytes of which a tensor with a meaning is made."""
    value = values[var]
    while not operators.is_byte_cast(value) and operators.byte_dequantize(value) is None:
        value = values[next(arg for arg in value.args if isinstance(arg, relax.Var))]
    return value.args[0]


def _line(
    value: relax.Expr, lines: Mapping[relax.Var, tuple[Line, relax.Expr]]
) -> tuple[Line, relax.Expr] | None:
    """Return a and b, and the bytes, if ``value`` is a line of bytes."""
    if operators.is_byte_cast(value):
        return (1.0, 0.0), value.args[0]
    if not ir.is_call_to(value, "relax.add", "relax.subtract", "relax.multiply", "relax.divide"):
        return None
    left, right = value.args
    if left in lines and (number := _number(right, value)) is not None:
        (a, b), source = lines[left]
        steps: dict[str, Line] = {
            "relax.add": (a, b + number),
            "relax.subtract": (a, b - number),
            "relax.multiply": (a * number, b * number),
            "relax.divide": (a / number, b / number) if number else (0.0, 0.0),
        }
        return steps[value.op.name], source
    if right in lines and (number := _number(left, value)) is not None:
        (a, b), source = lines[right]
        if ir.is_call_to(value, "relax.add"):
            return (a, b + number), source
        if ir.is_call_to(value, "relax.multiply"):
            return (a * number, b * number), source
    return None


def _number(expr: relax.Expr, value: relax.Call) -> float | None:
    """Return a constant that is one number and does not add axes to the other operand."""
    constant = ir.float_constant(expr)
    if constant is None or constant.size != 1:
        return None
    other = value.args[0] if value.args[1].same_as(expr) else value.args[1]
    return float(constant.reshape(())) if constant.ndim <= len(ir.shape(other)) else None


def _meaning(line: Line, source: relax.Expr) -> forms.Affine | None:
    (a, b), dtype = line, ir.dtype(source)
    # A scale is positive, and a product of two of them a normal float32.
    if not 2.0**-60 < a < 2.0**60:
        return None
    zero = round(-b / a)
    limits = np.iinfo(dtype)
    if abs(-b / a - zero) > _NEAR or not limits.min <= zero <= limits.max:
        return None
    return forms.Affine(
        scale=np.array(a, np.float32), zero_point=np.array(zero, np.int32), dtype=dtype
    )
