"""Read the bytes of an ONNX file into a checked graph whose tensors are all in memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import google.protobuf.message
import onnx
import onnx_ir
from onnx_ir.passes import common

from tvmopt.errors import ModelError
from tvmopt.frontend.messages import first_line, quietly

# Opset 7 is the first whose operators broadcast as NumPy does; below it every binary operator
# has an `axis` attribute of its own, which neither TVM's converters nor ours read.
OLDEST_OPSET = 7


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFile:
    """A checked ONNX model and where it came from.

    Attributes:
        label: The file's name, with which every message about the model begins.
        sha256: Of the file's bytes, in hexadecimal (external data is not part of it).
        model: The graph.
        opset: Version of the default operator set.
    """

    label: str
    sha256: str
    model: onnx_ir.Model
    opset: int


def read(path: str | Path) -> ModelFile:
    """Read and check an ONNX file and the external data beside it.

    Args:
        path: The ``.onnx`` file.

    Returns:
        The model. Its structure passes ONNX's own checker and each of its tensors holds as many
        elements as its shape says.

    Raises:
        ModelError: The file cannot be read, is no ONNX model, or is not a valid one.
    """
    path = Path(path)
    label = path.name or str(path)
    data = _bytes(path, label)
    sha256 = hashlib.sha256(data).hexdigest()
    proto = _parse(data, label)
    del data  # the parsed copy is the one to keep: weights are not held twice
    try:
        with quietly():
            model = onnx_ir.serde.deserialize_model(proto)
    except Exception as err:
        raise ModelError(f"{label}: must be a valid ONNX model: {first_line(err)}") from err
    if not model.graph.name:
        model.graph.name = "main"  # ONNX wants a name, several exporters write none
    _load_external(model, path.resolve().parent, label)
    _check_tensors(model, label)
    _check_structure(model, label)
    return ModelFile(label=label, sha256=sha256, model=model, opset=_opset(model, label))


def _bytes(path: Path, label: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as err:
        raise ModelError(
            f"{label}: must be a readable ONNX file: {err.strerror or err} ({str(path)!r})"
        ) from err
    if not data:
        raise ModelError(f"{label}: must be an ONNX model, got an empty file")
    return data


def _parse(data: bytes, label: str) -> onnx.ModelProto:
    try:
        proto = onnx.ModelProto.FromString(data)
    except google.protobuf.message.DecodeError as err:
        raise ModelError(
            f"{label}: must be an ONNX model, got {len(data)} bytes that do not parse as one; "
            "is the file complete?"
        ) from err
    if not proto.HasField("graph") or not proto.opset_import:
        raise ModelError(
            f"{label}: must be an ONNX model, got a file without a graph or operator set; "
            "is the file complete?"
        )
    return proto


def _opset(model: onnx_ir.Model, label: str) -> int:
    version = model.opset_imports.get("", model.opset_imports.get("ai.onnx"))
    newest = onnx.defs.onnx_opset_version()
    if version is None or not OLDEST_OPSET <= version <= newest:
        raise ModelError(
            f"{label}: must use ONNX opset {OLDEST_OPSET} to {newest}, got {version}; "
            "convert it with onnx.version_converter"
        )
    return version


def tensors(model: onnx_ir.Model) -> Iterator[tuple[onnx_ir.TensorProtocol, str]]:
    """Yield every constant tensor of a model, in subgraphs and functions too, and its name."""
    graphs = [*model.graphs(), *(function.graph for function in model.functions.values())]
    for graph in graphs:
        for name, value in graph.initializers.items():
            if value.const_value is not None:
                yield value.const_value, name
        for node in graph.all_nodes():
            for attribute in node.attributes.values():
                if attribute.is_ref():
                    continue
                if attribute.type == onnx_ir.AttributeType.TENSOR:
                    yield attribute.value, f"{node.name or node.op_type}.{attribute.name}"
                elif attribute.type == onnx_ir.AttributeType.TENSORS:
                    for tensor in attribute.value:
                        yield tensor, f"{node.name or node.op_type}.{attribute.name}"


def _load_external(model: onnx_ir.Model, folder: Path, label: str) -> None:
    for tensor, name in tensors(model):
        if not isinstance(tensor, onnx_ir.ExternalTensor):
            continue
        where = os.fspath(tensor.location)
        target = (folder / where).resolve()
        if not target.is_relative_to(folder):
            raise ModelError(
                f"{label}: tensor {name!r}: external data must lie beside the model, got {where!r}"
            )
        if not target.is_file():
            raise ModelError(
                f"{label}: tensor {name!r} keeps its data in {where!r}, which is missing; "
                "put that file beside the model"
            )
        tensor.base_dir = folder
    try:
        onnx_ir.external_data.load_to_model(model)
    except Exception as err:
        raise ModelError(f"{label}: external data cannot be read: {first_line(err)}") from err


def _check_tensors(model: onnx_ir.Model, label: str) -> None:
    for tensor, name in tensors(model):
        try:
            if tensor.dtype == onnx_ir.DataType.STRING:
                continue
            size = tensor.numpy().size
        except Exception as err:
            raise ModelError(
                f"{label}: tensor {name!r} must hold data of its type and shape: {first_line(err)}"
            ) from err
        if size != tensor.size:
            raise ModelError(
                f"{label}: tensor {name!r} must hold {tensor.size} elements, got {size}"
            )


def _check_structure(model: onnx_ir.Model, label: str) -> None:
    # The checker demands at least a rank of inputs and outputs, which ONNX does not.
    unknown = [v for v in (*model.graph.inputs, *model.graph.outputs) if v.shape is None]
    for value in unknown:
        value.shape = onnx_ir.Shape([])
    try:
        common.CheckerPass()(model)
    except Exception as err:
        raise ModelError(f"{label}: must be a valid ONNX model: {first_line(err)}") from err
    finally:
        for value in unknown:
            value.shape = None
    if not model.graph.outputs:
        raise ModelError(f"{label}: must have an output, got none")
