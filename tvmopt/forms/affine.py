"""Integers that stand for real numbers by constant scales and zero points.

A quantized tensor stands in the graph as integers behind ``relax.dequantize``::

    real = (quantized - zero_point) * scale
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import relax

from tvmopt import ir


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Affine:
    """How integers stand for real numbers.

    Attributes:
        scale: Positive float32, of shape () for the whole tensor or (c,) along ``axis``.
        zero_point: The integer that stands for 0, int32, of shape () or that of ``scale``.
        dtype: Of the integers: "uint8", "int8", "int16", "uint16" or "int32".
        axis: The axis that scales follow, from 0; without meaning where the scale is one.
    """

    scale: np.ndarray
    zero_point: np.ndarray
    dtype: str
    axis: int = 0

    @property
    def low(self) -> int:
        """The least integer."""
        return int(np.iinfo(self.dtype).min)

    @property
    def high(self) -> int:
        """The greatest integer."""
        return int(np.iinfo(self.dtype).max)

    def same(self, other: Affine) -> bool:
        """Say whether both give every integer the same meaning."""
        return (
            self.dtype == other.dtype
            and np.array_equal(self.scale, other.scale)
            and bool(np.all(self.zero_point == other.zero_point))
            and (self.scale.ndim == 0 or self.axis == other.axis)
        )

    def along(self, values: np.ndarray, rank: int) -> np.ndarray:
        """Return scales or zero points so that they broadcast against a tensor of ``rank`` axes."""
        if values.ndim == 0:
            return values
        return values.reshape([-1 if axis == self.axis else 1 for axis in range(rank)])


def quantized(x: np.ndarray, how: Affine) -> np.ndarray:
    """Return what :func:`quantize` makes of an array, bit for bit; x: float32, finite."""
    rounded = np.rint(x / how.along(how.scale, x.ndim)) + how.along(how.zero_point, x.ndim)
    return np.clip(rounded, how.low, how.high).astype(how.dtype)


def quantize(x: relax.Expr, how: Affine) -> relax.Call:
    """Return ``clip(rint(x / scale) + zero_point)``; x: float32."""
    scale, zero = _parameters(how)
    return relax.op.quantize(x, scale, zero, axis=how.axis, out_dtype=how.dtype)


def dequantize(q: relax.Expr, how: Affine) -> relax.Call:
    """Return ``(q - zero_point) * scale`` as float32; q: of ``how.dtype``."""
    scale, zero = _parameters(how)
    return relax.op.dequantize(q, scale, zero, axis=how.axis, out_dtype="float32")


def match_quantize(expr: relax.Expr | None) -> tuple[relax.Expr, Affine] | None:
    """Return what a quantize reads, and how; None for anything else."""
    if not ir.is_call_to(expr, "relax.quantize") or ir.dtype(expr.args[0]) != "float32":
        return None
    how = _affine(expr, str(expr.attrs.out_dtype))
    return None if how is None else (expr.args[0], how)


def match_dequantize(expr: relax.Expr | None) -> tuple[relax.Expr, Affine] | None:
    """Return the integers that a dequantize reads, and how; None for anything else.

    Args:
        expr: The value of a binding.
    """
    if not ir.is_call_to(expr, "relax.dequantize") or str(expr.attrs.out_dtype) != "float32":
        return None
    how = _affine(expr, ir.dtype(expr.args[0]))
    return None if how is None else (expr.args[0], how)


def _parameters(how: Affine) -> tuple[relax.Expr, relax.Expr]:
    scale = how.scale.astype(np.float32)
    # TVM takes zero points of 8, 16 and 32 bits; int32 holds them all.
    zero = np.broadcast_to(how.zero_point, scale.shape).astype(np.int32)
    return relax.const(scale), relax.const(zero)


def _affine(call: relax.Call, dtype: str) -> Affine | None:
    """Return the parameters of a quantize or dequantize where they are constant."""
    scale, zero = ir.float_constant(call.args[1]), ir.constant(call.args[2])
    if scale is None or zero is None or scale.ndim > 1 or scale.dtype != np.float32:
        return None
    axis = int(call.attrs.axis) % max(1, len(ir.shape(call.args[0])))
    if scale.size == 1:
        if zero.size != 1:
            return None
        scale, zero, axis = scale.reshape(()), zero.reshape(()), 0
    return Affine(
        scale=scale.astype(np.float32), zero_point=zero.astype(np.int32), dtype=dtype, axis=axis
    )
