"""The weight of an ONNX node as rows, one an output, in the order in which kernels read it."""

from __future__ import annotations

import numpy as np
import onnx_ir

_LAYERS = ("Conv", "Gemm", "MatMul")


def weight_rows(node: onnx_ir.Node) -> tuple[np.ndarray, int] | None:
    """Return a layer's weight, (outputs, k), and how many of k are one run of taps.

    A convolution's k goes over its window, then over its input channels, which are the run; a
    product's over its inputs, all one run. What is dequantized is the integers less their zero
    point: their zeros and rank are those of the weight.

    Returns:
        None where ``node`` is no convolution or product by a constant matrix.
    """
    if node.op_type not in _LAYERS or len(node.inputs) < 2:
        return None
    weight = _values(node.inputs[1])
    if weight is None or weight.ndim < 2:
        return None
    if node.op_type == "Conv":
        return np.moveaxis(weight, 1, -1).reshape(len(weight), -1), weight.shape[1]
    if weight.ndim != 2:
        return None
    transposed = node.attributes.get_int("transB", 0) if node.op_type == "Gemm" else 0
    if not transposed:
        weight = weight.T
    return weight, weight.shape[1]


def _values(value: onnx_ir.Value | None) -> np.ndarray | None:
    """Return a constant, or the integers that one is dequantized from."""
    constant = _constant(value)
    node = None if value is None else value.producer()
    if constant is not None or node is None or node.op_type != "DequantizeLinear":
        return constant
    codes, zero = _constant(node.inputs[0]), None
    if len(node.inputs) > 2:
        zero = _constant(node.inputs[2])
    if codes is None or zero is None or not zero.any():
        return codes
    if zero.ndim > 1:
        return None  # zero points of blocks
    shape = [1] * codes.ndim
    if zero.ndim:
        shape[node.attributes.get_int("axis", 1)] = len(zero)
    return codes.astype(np.int32) - zero.astype(np.int32).reshape(shape)


def _constant(value: onnx_ir.Value | None) -> np.ndarray | None:
    return None if value is None or value.const_value is None else value.const_value.numpy()
