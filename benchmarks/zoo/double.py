"""Evaluate an ONNX model in float64, by ONNX's own definitions of its operators.

Every float32 of the graph becomes a float64: weights, constants, casts, inputs and outputs. The
result carries some 1e-16 of rounding a layer, so that it can tell which of two float32 results is
nearer to what the model says. Source: ``onnx.reference``, which is slow, and runs float64 as it
does float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    numpy_helper,
)
from onnx.reference import ReferenceEvaluator

from benchmarks.zoo.definitions import CORRECTED
from benchmarks.zoo.verdict import NoReferenceError

# Attributes that name a type of element.
TYPE_ATTRIBUTES = {"Cast": "to", "EyeLike": "dtype", "SequenceEmpty": "dtype"}


def evaluate(path: Path, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the outputs by name, for inputs of the model's own dtypes.

    Raises:
        NoReferenceError: ONNX defines no such operator, or its definition fails.
    """
    model = to_double(onnx.load(path))
    feeds = {name: array.astype(_wide(array.dtype)) for name, array in inputs.items()}
    try:
        outputs = ReferenceEvaluator(model, new_ops=list(CORRECTED)).run(None, feeds)
    # The evaluator raises whatever its operators do.
    except Exception as err:
        raise NoReferenceError(f"{type(err).__name__}: {err}".splitlines()[0]) from err
    return dict(zip([value.name for value in model.graph.output], outputs, strict=True))


def to_double(model: ModelProto) -> ModelProto:
    """Return a copy of ``model`` with float64 for each float32."""
    copy = ModelProto()
    copy.CopyFrom(model)
    _widen_graph(copy.graph)
    for function in copy.functions:
        _widen_nodes(function.node)
    return copy


def _wide(dtype: np.dtype) -> np.dtype:
    return np.dtype(np.float64) if dtype == np.float32 else dtype


def _widen_graph(graph: GraphProto) -> None:
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    _widen_values([*graph.input, *graph.output])
    del graph.value_info[:]  # says float32 of what lies between
    _widen_nodes(graph.node)


def _widen_values(values: Iterable[ValueInfoProto]) -> None:
    for value in values:
        kind = value.type.tensor_type
        if kind.elem_type == TensorProto.FLOAT:
            kind.elem_type = TensorProto.DOUBLE


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT:
        array = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _widen_nodes(nodes: Iterable[NodeProto]) -> None:
    for node in nodes:
        if node.op_type == "ConstantOfShape" and not node.attribute:  # float32 by default
            zero = onnx.helper.make_tensor("value", TensorProto.DOUBLE, [1], [0.0])
            node.attribute.append(onnx.helper.make_attribute("value", zero))
        for attribute in node.attribute:
            _widen_attribute(node.op_type, attribute)


def _widen_attribute(op_type: str, attribute: AttributeProto) -> None:
    if attribute.type == AttributeProto.GRAPH:
        _widen_graph(attribute.g)
    elif attribute.type == AttributeProto.TENSOR:
        _widen_tensor(attribute.t)
    elif attribute.name == TYPE_ATTRIBUTES.get(op_type) and attribute.i == TensorProto.FLOAT:
        attribute.i = TensorProto.DOUBLE
    elif op_type == "Constant" and attribute.name in {"value_float", "value_floats"}:
        floats = attribute.f if attribute.name == "value_float" else list(attribute.floats)
        tensor = numpy_helper.from_array(np.array(floats, np.float64), "value")
        attribute.CopyFrom(onnx.helper.make_attribute("value", tensor))
