"""How many multiply-accumulates an ONNX node takes."""

from __future__ import annotations

import math

import onnx_ir

# Operator to the positions of its data and its weight among the inputs.
_CONVOLUTIONS = {"Conv": (0, 1), "ConvInteger": (0, 1), "QLinearConv": (0, 3)}
_PRODUCTS = {"MatMul": (0, 1), "MatMulInteger": (0, 1), "QLinearMatMul": (0, 3)}
_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def node_macs(node: onnx_ir.Node) -> int | None:
    """Return the multiply-accumulates of one run of ``node``; one is two FLOPs.

    Convolutions, products and recurrent layers count in full, padding included; everything else
    counts as none, as is usual.

    Returns:
        The count, or None where a shape that it depends on is not static.
    """
    try:
        if node.op_type in _CONVOLUTIONS:
            _, weight = _CONVOLUTIONS[node.op_type]
            return math.prod(_output(node)) * math.prod(_input(node, weight)[1:])
        if node.op_type == "ConvTranspose":
            return math.prod(_input(node, 0)) * math.prod(_input(node, 1)[1:])
        if node.op_type in _PRODUCTS:
            data, _ = _PRODUCTS[node.op_type]
            return math.prod(_output(node)) * _input(node, data)[-1]
        if node.op_type == "Gemm":
            transposed = node.attributes.get_int("transA", 0)
            return math.prod(_output(node)) * _input(node, 0)[0 if transposed else 1]
        if node.op_type in _GATES:
            return _recurrent(node)
    except _OpenShapeError:
        return None
    return 0


def _recurrent(node: onnx_ir.Node) -> int:
    """Return steps * batch * directions * gates * hidden * (inputs + hidden)."""
    x, weight, recurrence = (_input(node, i) for i in range(3))
    directions, hidden = weight[0], recurrence[-1]
    gates = _GATES[node.op_type]
    return math.prod(x[:2]) * directions * gates * hidden * (weight[-1] + hidden)


class _OpenShapeError(Exception):
    pass


def _static(value: onnx_ir.Value | None) -> tuple[int, ...]:
    if value is None or value.shape is None or not value.shape.is_static():
        raise _OpenShapeError
    return value.shape.numpy()


def _input(node: onnx_ir.Node, index: int) -> tuple[int, ...]:
    if index >= len(node.inputs):
        raise _OpenShapeError
    return _static(node.inputs[index])


def _output(node: onnx_ir.Node) -> tuple[int, ...]:
    return _static(node.outputs[0])
