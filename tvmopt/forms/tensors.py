"""Activations with one run-time scale and zero point, and products of bare integers.

In the graph, for x: float32 of any shape (ONNX's DynamicQuantizeLinear)::

    low  = minimum(min(x), 0);  high = maximum(max(x), 0);  span = high - low
    s    = where(span == 0, 1, span) / 255                                    () float32
    z    = astype(round(clip(0 - low / s, 0, 255)), "uint8")                  () uint8
    q    = quantize(x, s, z)                                                  uint8

and a product of integers less their zero points (MatMulInteger, ConvInteger)::

    acc  = matmul | conv2d(astype(q, "int32") - astype(z, "int32"), astype(wq, "int32") - zw)

in int32, exactly. A zero point that is constant and 0 is left out.

Source: the ONNX operator specifications.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import relax

from tvmopt import ir
from tvmopt.forms.graph import Define, Emit


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Centred:
    """Integers of 8 bits less their zero point, in int32.

    Attributes:
        codes: The integers, uint8 or int8; a variable or a constant.
        zero: What is taken off: 8 bits or int32, a variable or a constant of a shape that
            broadcasts; None for nothing.
    """

    codes: relax.Expr
    zero: relax.Expr | None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class IntegerProduct:
    """A conv2d or matmul of integers in int32.

    Attributes:
        call: The operator.
        data: Its first operand.
        weight: Its second operand.
    """

    call: relax.Call
    data: Centred
    weight: Centred


def quantize_tensor(
    x: relax.Expr, emit: Emit, name: str
) -> tuple[relax.Expr, relax.Expr, relax.Expr]:
    """Bind the quantization of a float32 tensor by its own range.

    Returns:
        The variables of the integers (uint8), the scale (() float32) and the zero point (()
        uint8). A tensor of zeros has scale 1 / 255, as in ONNX's reference.
    """
    op, zero = relax.op, relax.const(np.float32(0.0))
    high = emit(op.maximum(emit(op.max(x), f"{name}_max"), zero), f"{name}_high")
    low = emit(op.minimum(emit(op.min(x), f"{name}_min"), zero), f"{name}_low")
    span = emit(op.subtract(high, low), f"{name}_span")
    flat = emit(op.equal(span, zero), f"{name}_is_flat")
    span = emit(op.where(flat, relax.const(np.float32(1.0)), span), f"{name}_safe_span")
    scale = emit(op.divide(span, relax.const(np.float32(255.0))), f"{name}_scale")
    units = emit(op.subtract(zero, emit(op.divide(low, scale), f"{name}_low_units")), f"{name}_up")
    rounded = emit(op.round(emit(op.clip(units, 0, 255), f"{name}_bounded")), f"{name}_rounded")
    point = emit(op.astype(rounded, "uint8"), f"{name}_zero_point")
    codes = op.quantize(x, scale, point, axis=0, out_dtype="uint8")
    return emit(codes, name), scale, point


def center(codes: relax.Expr, zero: relax.Expr | None, emit: Emit, name: str) -> relax.Expr:
    """Bind 8-bit integers less their zero point, in int32.

    Args:
        codes: uint8 or int8.
        zero: 8 bits, of a shape that broadcasts; None for nothing.
        emit: Binds each step.
        name: The start of the steps' names.
    """
    wide = emit(relax.op.astype(codes, "int32"), f"{name}_wide")
    if zero is None:
        return wide
    known = ir.constant(zero)
    if known is not None:
        point = relax.const(known.astype(np.int32))
    else:
        point = emit(relax.op.astype(zero, "int32"), f"{name}_zero")
    return emit(relax.op.subtract(wide, point), f"{name}_centred")


def match_integer_product(expr: relax.Expr, define: Define) -> IntegerProduct | None:
    """Read the value of a binding as a product of integers; None if it is none."""
    if not ir.is_call_to(expr, "relax.nn.conv2d", "relax.matmul"):
        return None
    data, weight = (match_centred(arg, define) for arg in expr.args)
    if data is None or weight is None:
        return None
    return IntegerProduct(call=expr, data=data, weight=weight)


def match_centred(expr: relax.Expr, define: Define) -> Centred | None:
    """Read an int32 tensor as 8-bit integers less their zero point; None if it is not."""
    call, zero = define(expr), None
    if ir.is_call_to(call, "relax.subtract"):
        point = define(call.args[1])
        cast = ir.is_call_to(point, "relax.astype")
        zero = point.args[0] if cast else call.args[1]
        call = define(call.args[0])
    if not ir.is_call_to(call, "relax.astype") or str(call.attrs.dtype) != "int32":
        return None
    if ir.dtype(call.args[0]) not in ("uint8", "int8"):
        return None
    return Centred(codes=call.args[0], zero=zero)
