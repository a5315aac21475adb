"""Operators that only move numbers, or choose among them, and so run on the integers as well.

A quantized tensor's numbers are in the order of its integers, since scales are positive. So what
copies, drops or repeats elements, and what takes the larger of some, commutes with ``dequantize``
and, where the result is as large as the operand or larger, is best done after ``quantize``.

Source: none; derived here.
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.forms import Affine, quantized

_CODED = ("relax.quantize", "relax.dequantize", "relax.astype", "relax.take")
VIEWS = ("relax.reshape", "relax.expand_dims", "relax.squeeze", "relax.flatten")
_REPEATS = ("relax.broadcast_to", "relax.tile", "relax.repeat")
_POOLS = tuple(f"relax.nn.max_pool{n}d" for n in (1, 2, 3))
# The result is never smaller than the operand, or, of a pooling, what reads it is cheaper by more
# than quantizing a whole tensor costs.
_GROWING = (*VIEWS, *_REPEATS, *_POOLS, "relax.permute_dims", "relax.flip", "relax.nn.pad")
_CHOOSING = (
    *("relax.strided_slice", "relax.take", "relax.max", "relax.gather_elements", "relax.gather_nd"),
)


def has_codes(mod: tvm.IRModule) -> bool:
    """Say whether there may be anything in "main" that is quantized or kept in fewer bits."""
    return any(ir.is_call_to(value, *_CODED) for _, value in ir.bindings(mod["main"]))


def data_of(call: relax.Expr) -> tuple[relax.Expr, ...]:
    """Return the operands that a movement moves; none for any other operator."""
    if not isinstance(call, relax.Call) or not isinstance(call.op, tvm.ir.Op):
        return ()
    if call.op.name in ("relax.concat", "relax.stack"):
        return tuple(call.args[0].fields) if isinstance(call.args[0], relax.Tuple) else ()
    name = call.op.name
    moves = name in _GROWING or name in _CHOOSING or _is_nearest(call)
    return (call.args[0],) if moves and _is_plain(call) else ()


def grows(call: relax.Call) -> bool:
    """Say whether a movement is one to quantize in front of."""
    return ir.is_call_to(call, *_GROWING, "relax.concat", "relax.stack") or _is_nearest(call)


def on_integers(
    call: relax.Call, parts: list[relax.Expr], how: Affine, *, exactly: bool
) -> relax.Call | None:
    """Return the movement of the integers that stand for its operands.

    Args:
        call: A movement.
        parts: The integers in place of ``data_of(call)``.
        how: What they mean; one scale.
        exactly: Whether what a pad adds must have an integer that stands for just that number,
            rather than for the one that quantizing would make of it.

    Returns:
        None if there is no such integer.
    """
    if ir.is_call_to(call, "relax.concat", "relax.stack"):
        return ir.with_changes(call, [relax.Tuple(parts), *call.args[1:]])
    args = [parts[0], *call.args[1:]]
    if not ir.is_call_to(call, "relax.nn.pad") or call.attrs.pad_mode != "constant":
        return ir.with_changes(call, args)
    value = np.float32(call.attrs.pad_value)
    code = int(quantized(np.asarray(value), how))
    if exactly and np.float32(code - int(how.zero_point)) * how.scale != value:
        return None
    return ir.with_changes(call, args, pad_value=float(code))


def _is_nearest(call: relax.Call) -> bool:
    return ir.is_call_to(call, "relax.image.resize2d") and call.attrs.method == "nearest_neighbor"


def _is_plain(call: relax.Call) -> bool:
    """Say whether every element of the result is one of the operand's, or of a constant pad."""
    if ir.is_call_to(call, *_POOLS):
        # In the last window of a rounded-up pooling there may be nothing but padding.
        return not (call.attrs.ceil_mode and any(int(p) for p in call.attrs.padding))
    return True
