"""Replace operators that ONNX defines as functions of others by their definition.

ONNX gives such a definition for operators like Attention, RotaryEmbedding or SwiGLU. It is used
for those that no converter covers; a converter, which makes fewer and larger operators, comes
first.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import onnx
import onnx_ir
from onnx_ir.passes import common

from tvmopt.errors import ModelError
from tvmopt.frontend.importer import domain_of
from tvmopt.frontend.messages import first_line, quietly

_DOMAIN = "tvmopt.expanded"  # where a definition stands until it is inlined


def expand_functions(
    model: onnx_ir.Model, known: Collection[tuple[str, str]], opset: int, label: str
) -> bool:
    """Inline ONNX's definition of each operator that ``known`` lacks and ONNX defines, in place.

    Args:
        model: Its values have types and shapes; some definitions depend on them.
        known: The operators (domain, name) that need no definition.
        opset: Version of the default operator set.
        label: The model file, for messages.

    Returns:
        Whether there was one. Its definition may use further such operators.

    Raises:
        ModelError: A node does not fit its definition.
    """
    found = 0
    for node in list(model.graph):
        if (domain_of(node), node.op_type) in known or domain_of(node):
            continue
        try:
            body = _definition(node, opset)
            function = None if body is None else _function(body, node, f"{node.op_type}_{found}")
        except Exception as err:
            raise ModelError(
                f"{label}: node {node.name!r} ({node.op_type}) does not fit its definition: "
                f"{first_line(err)}"
            ) from err
        if function is None:
            continue
        model.functions[function.identifier()] = function
        node.domain, node.op_type = function.domain, function.name
        found += 1
    if found:
        model.opset_imports.setdefault(_DOMAIN, 1)
        with quietly():
            common.InlinePass()(model)
    return found > 0


def _function(body: onnx.FunctionProto, node: onnx_ir.Node, name: str) -> onnx_ir.Function:
    """Return a definition as a function of the model that ``node`` can call."""
    body.domain, body.name = _DOMAIN, name
    outputs = list(body.output)[: len(node.outputs)]
    made = {name for inner in body.node for name in inner.output} | set(body.input)
    # A definition leaves out what only an unused optional output needs; the place remains.
    for missing in (name for name in outputs if name not in made):
        body.node.append(onnx.helper.make_node("Constant", [], [missing], value_float=0.0))
    del body.output[:]
    body.output.extend(outputs)
    return onnx_ir.serde.deserialize_function(body)


def _definition(node: onnx_ir.Node, opset: int) -> onnx.FunctionProto | None:
    """Return ONNX's definition of a node's operator, or None if it has none."""
    try:
        schema: Any = onnx.defs.get_schema(node.op_type, opset, "")  # its stubs lack functions
    except onnx.defs.SchemaError:
        return None
    for name, attribute in schema.attributes.items():
        if attribute.default_value.name and name not in node.attributes:
            default = onnx_ir.serde.deserialize_attribute(attribute.default_value)
            node.attributes[name] = default  # the definition refers to it
    if schema.has_function:
        versions = [v for v in schema.function_opset_versions if v <= opset]
        data = schema.get_function_with_opset_version(max(versions)) if versions else b""
    elif schema.has_context_dependent_function:
        versions = [v for v in schema.context_dependent_function_opset_versions if v <= opset]
        data = b""
        if versions:
            proto = onnx_ir.serde.serialize_node(node).SerializeToString()
            types = [_type(value) for value in node.inputs]
            data = schema.get_context_dependent_function_with_opset_version(
                max(versions), proto, types
            )
    else:
        return None
    if not data:
        return None
    body = onnx.FunctionProto.FromString(data)
    del body.opset_import[:]  # ONNX promises that the definition holds at the model's version
    body.opset_import.append(onnx.helper.make_opsetid("", opset))
    return body


def _type(value: onnx_ir.Value | None) -> bytes:
    proto = onnx.TypeProto()
    if value is not None and value.type is not None:
        onnx_ir.serde.serialize_type_into(proto, value.type)
        if value.shape is not None:
            onnx_ir.serde.serialize_shape_into(proto, value.shape)
    return proto.SerializeToString()
