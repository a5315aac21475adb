"""Say what an ONNX file holds, without converting anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import onnx_ir

from tvmopt.frontend.importer import domain_of
from tvmopt.frontend.read import ModelFile, tensors
from tvmopt.frontend.support import unsupported

# Element type and shape; an open dimension is its name or "?", an open rank is None.
Declared = tuple[str, tuple[int | str, ...] | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """What an ONNX file holds, before shapes are fixed and anything is folded.

    Attributes:
        label: The file's name.
        sha256: Of the file, in hexadecimal.
        opset: Version of the default operator set.
        ir_version: Version of the file format.
        producer: The exporter and its version; may be empty.
        inputs: By name.
        outputs: By name, as far as the file says.
        operators: How often each operator occurs, subgraphs included and calls of the file's own
            functions as they stand, most frequent first; ``domain.operator`` outside ONNX's own.
        parameters: Elements in all constant tensors.
        parameter_bytes: Their size.
        unsupported: Operators that occur and are not compiled. One that lies in the branch of a
            constant ``If`` that folding drops does no harm.
    """

    label: str
    sha256: str
    opset: int
    ir_version: int
    producer: str
    inputs: Mapping[str, Declared]
    outputs: Mapping[str, Declared]
    operators: Mapping[str, int]
    parameters: int
    parameter_bytes: int
    unsupported: tuple[str, ...]


def summarize_file(file: ModelFile, known: Collection[tuple[str, str]]) -> Summary:
    """Return what ``file`` holds; ``known`` are the operators (domain, name) that are compiled."""
    model = file.model
    counts = Counter(_full_name(domain_of(n), n.op_type) for n in model.graph.all_nodes())
    held = [tensor for tensor, _ in tensors(model)]
    initialized = set(model.graph.initializers)
    functions = {key[:2] for key in model.functions}
    missing = unsupported(model.graph, {*known, *functions})
    return Summary(
        label=file.label,
        sha256=file.sha256,
        opset=file.opset,
        ir_version=model.ir_version,
        producer=" ".join(filter(None, (model.producer_name, model.producer_version))),
        inputs=_declared(v for v in model.graph.inputs if v.name not in initialized),
        outputs=_declared(model.graph.outputs),
        operators=dict(counts.most_common()),
        parameters=sum(tensor.size for tensor in held),
        parameter_bytes=sum(tensor.nbytes for tensor in held),
        unsupported=tuple(_full_name(*key) for key in missing),
    )


def _full_name(domain: str, op_type: str) -> str:
    return f"{domain}.{op_type}" if domain else op_type


def _declared(values: Iterable[onnx_ir.Value]) -> dict[str, Declared]:
    return {str(value.name): (_dtype(value), _shape(value)) for value in values}


def _dtype(value: onnx_ir.Value) -> str:
    return value.dtype.name.lower() if value.dtype is not None else "?"


def _shape(value: onnx_ir.Value) -> tuple[int | str, ...] | None:
    if value.shape is None:
        return None
    return tuple(d if isinstance(d, int) else d.value or "?" for d in value.shape)
