"""Activations quantized at run time, one symmetric scale a row.

In the graph, for x: (..., k) float32::

    m  = maximum(max(abs(x), axis=-1, keepdims), SMALLEST)
    s  = m * (1 / 127)                                         (..., 1) float32
    q  = astype(clip(round(x / s), -127, 127), "int8")         (..., k)
    xd = astype(q, "float32") * s

``xd`` stands where x stood. A product of it and a weight with a scale for each output is one of
integers, whose result row i and column j counts in units of ``s[i] * sw[j]``.

Source: derived here; scales of a row ("per token") are those of Z. Yao et al., "ZeroQuant:
efficient and affordable post-training quantization for large-scale transformers", NeurIPS 2022,
section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import relax

from tvmopt import ir
from tvmopt.forms.graph import Define, Emit

LEVELS = 127
STEP = np.float32(1.0 / LEVELS)
# A row of zeros must not divide by zero, and its scale must be a normal number, which no
# flush-to-zero turns into one; nothing real is this small.
SMALLEST = np.float32(2.0**-100)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rows:
    """A tensor quantized row by row at run time.

    Attributes:
        x: The tensor, (..., k) float32.
        codes: Its integers in [-127, 127], int8; a variable.
        scale: One for each row, (..., 1) float32; a variable.
    """

    x: relax.Expr
    codes: relax.Expr
    scale: relax.Expr


def quantize_rows(x: relax.Expr, emit: Emit, name: str) -> relax.Expr:
    """Bind the form for x: (..., k) float32 and return the variable of ``xd``.

    Args:
        x: A variable.
        emit: Binds each step.
        name: The start of the steps' names.
    """
    op = relax.op
    largest = emit(op.max(emit(op.abs(x), f"{name}_abs"), axis=-1, keepdims=True), f"{name}_max")
    bounded = emit(op.maximum(largest, relax.const(SMALLEST)), f"{name}_peak")
    scale = emit(op.multiply(bounded, relax.const(STEP)), f"{name}_scale")
    rounded = emit(op.round(emit(op.divide(x, scale), f"{name}_units")), f"{name}_rounded")
    clipped = emit(op.clip(rounded, -LEVELS, LEVELS), f"{name}_clipped")
    codes = emit(op.astype(clipped, "int8"), f"{name}_codes")
    return emit(op.multiply(emit(op.astype(codes, "float32"), f"{name}_float"), scale), name)


def match_rows(expr: relax.Expr, define: Define) -> Rows | None:
    """Read ``xd`` (its variable, or the value bound to it) as the form; None if it is not.

    Any two things that are multiplied may stand in either order.
    """
    whole = define(expr)
    if not ir.is_call_to(whole, "relax.multiply"):
        return None
    for wide, scale in (whole.args, reversed(whole.args)):
        cast = define(wide)
        if not ir.is_call_to(cast, "relax.astype") or ir.dtype(cast.args[0]) != "int8":
            continue
        x = _source(cast.args[0], scale, define)
        if x is not None and _is_scale(scale, x, define):
            return Rows(x=x, codes=cast.args[0], scale=scale)
    return None


def _source(codes: relax.Expr, scale: relax.Expr, define: Define) -> relax.Expr | None:
    """Return x of ``astype(clip(round(x / scale), -127, 127), "int8")``."""
    cast = define(codes)
    clip = define(cast.args[0]) if ir.is_call_to(cast, "relax.astype") else None
    if not ir.is_call_to(clip, "relax.clip"):
        return None
    if [ir.scalar(bound) for bound in clip.args[1:3]] != [-LEVELS, LEVELS]:
        return None
    rounded = define(clip.args[0])
    units = define(rounded.args[0]) if ir.is_call_to(rounded, "relax.round") else None
    if not ir.is_call_to(units, "relax.divide") or not units.args[1].same_as(scale):
        return None
    return units.args[0]


def _is_scale(scale: relax.Expr, x: relax.Expr, define: Define) -> bool:
    """Say whether ``scale`` is ``maximum(max(abs(x), -1, keepdims), SMALLEST) * STEP``."""
    peak = _other_than(define(scale), "relax.multiply", STEP)
    largest = None if peak is None else _other_than(define(peak), "relax.maximum", SMALLEST)
    reduced = None if largest is None else define(largest)
    if not ir.is_call_to(reduced, "relax.max") or not reduced.attrs.keepdims:
        return False
    rank = len(ir.shape(reduced.args[0]))
    if [int(axis) % rank for axis in reduced.attrs.axis or []] != [rank - 1]:
        return False
    absolute = define(reduced.args[0])
    return ir.is_call_to(absolute, "relax.abs") and absolute.args[0].same_as(x)


def _other_than(call: relax.Expr, op: str, number: np.float32) -> relax.Expr | None:
    """Return what is combined with ``number`` by the operator ``op``."""
    if not ir.is_call_to(call, op):
        return None
    for arg, other in (call.args, reversed(call.args)):
        value = ir.float_constant(other)
        if value is not None and value.size == 1 and value.reshape(()) == number:
            return arg
    return None
