"""Load an ONNX model: checked, with static shapes, folded, and as a Relax module."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir
import tvm
from tvm import relax

from tvmopt.frontend.converters import converter_table
from tvmopt.frontend.fold import fold, inline
from tvmopt.frontend.functions import expand_functions
from tvmopt.frontend.importer import import_graph
from tvmopt.frontend.messages import identifier
from tvmopt.frontend.qlinear import OPERATORS, spell_out
from tvmopt.frontend.read import read
from tvmopt.frontend.shapes import fix_shapes
from tvmopt.frontend.summary import Summary, summarize_file
from tvmopt.frontend.support import refuse_unsupported

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """An input or output of a loaded model.

    Attributes:
        name: As in the ONNX file.
        dtype: Such as ``"float32"``.
        shape: Static.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportedModel:
    """A model on its way through the compiler.

    Attributes:
        mod: "main" takes ``inputs`` in order, NCHW as in ONNX, and returns the output, or a tuple
            of the outputs in order. Every shape is static; each binding is named after its node.
        name: The file's stem as an identifier.
        sha256: Of the file, in hexadecimal.
        inputs: In order.
        outputs: In order.
        summary: What the file holds.
    """

    mod: tvm.IRModule
    name: str
    sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    summary: Summary


def load(path: str | Path, shapes: Mapping[str, Sequence[int]] | None = None) -> ImportedModel:
    """Load an ONNX file as a Relax module.

    Args:
        path: The ``.onnx`` file; external data lies beside it.
        shapes: Input name to shape, for inputs whose dimensions the file leaves open.

    Returns:
        The model. It computes what the file does, up to rounding.

    Raises:
        ModelError: The file is missing, no ONNX model, or not a valid one.
        ShapeError: A dimension stays open, or ``shapes`` does not fit the model.
        UnsupportedError: Some operators, all of them named, are not compiled.
    """
    file = read(path)
    table = converter_table()
    summary = summarize_file(file, table.keys() | OPERATORS)
    graph = file.model.graph
    inline(file.model, file.label)
    spell_out(file.model, file.label)
    fix_shapes(file.model, shapes, file.label)
    fold(file.model, file.label)
    while expand_functions(file.model, table.keys(), file.opset, file.label):
        fold(file.model, file.label)
    refuse_unsupported(graph, table.keys(), file.label)
    mod = import_graph(graph, file.opset, file.label, table)
    logger.info("%s: %d nodes after folding", file.label, len(graph))
    main = mod["main"]
    returned = main.ret_ty.fields if isinstance(main.ret_ty, relax.TupleType) else [main.ret_ty]
    return ImportedModel(
        mod=mod,
        name=identifier(Path(path).stem, "model"),
        sha256=file.sha256,
        inputs=_specs(graph.inputs, [param.ty for param in main.params]),
        outputs=_specs(graph.outputs, returned),
        summary=summary,
    )


def summarize(path: str | Path) -> Summary:
    """Return what an ONNX file holds; nothing is converted and shapes may be open.

    Raises:
        ModelError: The file is missing, no ONNX model, or not a valid one.
    """
    return summarize_file(read(path), converter_table().keys() | OPERATORS)


def _specs(
    values: Iterable[onnx_ir.Value], types: Iterable[relax.TensorType]
) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name=str(value.name), dtype=str(ty.dtype), shape=tuple(int(d) for d in ty.shape))
        for value, ty in zip(values, types, strict=True)
    )
