"""TVM's own ONNX converters, for what ours do not cover."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_ir
from tvm import relax

# Not public, but the only way to use TVM's converters one at a time; the alternative is its
# importer, which prints to stdout, ignores domains and cannot be given converters.
from tvm.relax.frontend.onnx import onnx_frontend

from tvmopt.frontend.converters.node import Converter, Node

# Operators of other domains whose converters TVM keeps under the bare name.
_CONTRIB = frozenset({
    "Attention", "BiasGelu", "EmbedLayerNormalization", "FastGelu", "Gelu", "MatMulInteger16",
    "SkipLayerNormalization",
})  # fmt: skip
_CONTRIB_ONLY = _CONTRIB - {"Gelu"}

# Converters that cannot lead to a model with static shapes, or give wrong values.
_UNUSED = frozenset({
    "AllClassNMS", "Compress", "ConcatFromSequence", "NonMaxSuppression", "NonZero", "Optional",
    "OptionalGetElement", "OptionalHasElement", "SequenceAt", "SequenceConstruct", "SequenceEmpty",
    "SequenceErase", "SequenceInsert", "SequenceLength", "SplitToSequence", "Unique",
})  # fmt: skip


def tvm_converters() -> Mapping[tuple[str, str], Converter]:
    """Return TVM's converters by (domain, operator), as functions of a :class:`Node`."""
    table: dict[tuple[str, str], Converter] = {}
    for op_type, converter in onnx_frontend._get_convert_map().items():
        if op_type in _UNUSED:
            continue
        if op_type not in _CONTRIB_ONLY:
            table["", op_type] = _wrap(converter)
        if op_type in _CONTRIB:
            table["com.microsoft", op_type] = _wrap(converter)
    return table


def _wrap(converter: Any) -> Converter:
    def convert(node: Node) -> relax.Expr | tuple[relax.Expr, ...]:
        inputs = onnx_frontend.onnx_input(node.inputs)
        attributes = {name: _as_tvm(attr) for name, attr in node.attributes.items()}
        attributes["tvm_custom"] = {"name": node.name, "num_outputs": node.outputs}
        # The last argument holds parameters that are inputs of "main"; ours are all constants.
        return converter.get_converter(node.opset)(node.builder, inputs, attributes, [{}, {}])

    return convert


def _as_tvm(attr: onnx_ir.Attr) -> Any:
    """Return an attribute's value as TVM's converters expect it: as protobuf holds it."""
    kind = onnx_ir.AttributeType
    if attr.type == kind.STRING:
        return attr.value.encode()
    if attr.type == kind.STRINGS:
        return tuple(text.encode() for text in attr.value)
    if attr.type == kind.TENSOR:
        return onnx_ir.serde.serialize_tensor(attr.value)
    return tuple(attr.value) if isinstance(attr.value, list | tuple) else attr.value
