"""A convolution or matrix product of quantized operands: what an integer kernel computes.

In the graph::

    y = conv2d | matmul(dequantize(xq, sx, zx), dequantize(wq, sw, zw, axis))
    z = add(y, dequantize(bq, sx * sw, 0, axis=-1))                                 optional

In integers, exactly::

    acc = sum (xq - zx) * (wq - zw) + bq          int32
    z   = acc * (sx * sw)

Source: B. Jacob et al., "Quantization and training of neural networks for efficient
integer-arithmetic-only inference", CVPR 2018, sections 2.2 and 2.4 (the bias in units of the
product of the scales).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import relax

from tvmopt import ir
from tvmopt.forms.affine import Affine, match_dequantize
from tvmopt.forms.graph import Define


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Product:
    """A conv2d or matmul of two quantized operands.

    Attributes:
        call: The operator; its operands are the dequantized tensors.
        data: The integers of the first operand; a variable, or a constant.
        data_how: What they mean.
        weight: The integers of the second operand; mostly a constant.
        weight_how: What they mean.
    """

    call: relax.Call
    data: relax.Expr
    data_how: Affine
    weight: relax.Expr
    weight_how: Affine

    @property
    def codes(self) -> np.ndarray | None:
        """The weight's integers, in the layout that the call reads; None if they are computed."""
        return ir.constant(self.weight)


def match_product(expr: relax.Expr, define: Define) -> Product | None:
    """Read the value of a binding as a product of quantized operands; None if it is none.

    The scales of a weight follow its outputs: axis O of a kernel layout, the last of a matrix.
    Scales of activations are one for the tensor.
    """
    if not ir.is_call_to(expr, "relax.nn.conv2d", "relax.matmul"):
        return None
    data, weight = (match_dequantize(define(arg)) for arg in expr.args)
    if data is None or weight is None or data[1].scale.ndim:
        return None
    if weight[1].scale.ndim and weight[1].axis != _output_axis(expr):
        return None
    return Product(
        call=expr, data=data[0], data_how=data[1], weight=weight[0], weight_how=weight[1]
    )


def bias_how(data: Affine, weight: Affine, axis: int) -> Affine:
    """Return what the integers of a bias mean: units of the product of the scales.

    Args:
        data: Of the activations; one scale.
        weight: Of the weight.
        axis: The axis of the bias that is the channels.
    """
    unit = np.asarray(np.float32(data.scale) * weight.scale.astype(np.float32), np.float32)
    return Affine(scale=unit, zero_point=np.zeros((), np.int32), dtype="int32", axis=axis)


def match_bias(expr: relax.Expr, define: Define, data: Affine, weight: Affine) -> np.ndarray | None:
    """Return the integers of a bias, (n,) or (1,) int32, that accumulators can be added to.

    Args:
        expr: The other operand of the add behind a product.
        define: Looks variables up.
        data: Of the product's activations.
        weight: Of the product's weight.

    Returns:
        None where ``expr`` is no int32 constant, counts in other units than the accumulators do,
        or varies along another axis than the last.
    """
    found = match_dequantize(define(expr))
    codes = None if found is None else ir.constant(found[0])
    if found is None or codes is None or codes.dtype != np.int32 or np.any(found[1].zero_point):
        return None
    if not np.array_equal(found[1].scale, bias_how(data, weight, 0).scale):
        return None
    flat = codes.reshape(-1)
    return flat if codes.ndim == 0 or flat.size == codes.shape[-1] else None


def _output_axis(call: relax.Call) -> int:
    if ir.is_call_to(call, "relax.matmul"):
        return len(ir.shape(call.args[1])) - 1
    return str(call.attrs.kernel_layout).index("O")
