"""What compiling an ONNX file would be about: operators, sizes, work, and what is in the way.

Plain data: who shows it needs no other part of the frontend.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir

from tvmopt.errors import ModelError, ShapeError, UnsupportedError
from tvmopt.frontend.converters import converter_table
from tvmopt.frontend.fold import fold, inline
from tvmopt.frontend.importer import layer_name
from tvmopt.frontend.node_macs import node_macs
from tvmopt.frontend.qlinear import OPERATORS, spell_out
from tvmopt.frontend.read import ModelFile, read, tensors
from tvmopt.frontend.shapes import fix_shapes
from tvmopt.frontend.summary import Summary, summarize_file
from tvmopt.frontend.support import unsupported
from tvmopt.frontend.weight_rows import weight_rows
from tvmopt.passes.lowrank.rank import rank_at
from tvmopt.passes.prune.zeros import zero_structure

MOST_SQUARE = 2048  # rows and columns; singular values take the cube of the lesser in time


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """One node of the folded graph.

    Attributes:
        name: The node's.
        operator: Its type.
        shape: Of its first output, or None where that stays open.
        macs: Multiply-accumulates, or None where a shape stays open.
        parameters: Elements of its constant inputs.
        sparsity: Share of zeros in its weights (constants of two or more dimensions), or None.
        zeros: In what structure they are, such as "16x4"; None where there are hardly any, or where
            it is no convolution or product by a constant matrix.
        ranks: Of such a weight as a matrix, by output: the least rank that holds 90 % of its
            energy, that which holds 99 %, and the largest that its shape allows; None where it is
            no such layer, or so large that it would take minutes.
    """

    name: str
    operator: str
    shape: tuple[int, ...] | None
    macs: int | None
    parameters: int
    sparsity: float | None
    zeros: str | None
    ranks: tuple[int, int, int] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """An ONNX file, looked at.

    Attributes:
        summary: As the file is, before anything is folded.
        open_shapes: What to do about dimensions that are left open, or None if there are none.
        problem: Why the graph cannot be folded, or None.
        layers: Of the folded graph with its shapes fixed; empty where that cannot be.
        unsupported: Operators that are not compiled, to the names of their nodes.
        sparsity: Share of zeros among the weights, constants of two or more dimensions.
    """

    summary: Summary
    open_shapes: str | None
    problem: str | None
    layers: tuple[Layer, ...]
    unsupported: Mapping[str, Sequence[str]]
    sparsity: float

    @property
    def macs(self) -> int | None:
        """Of one run, or None where a layer's are not known."""
        counts = [layer.macs for layer in self.layers]
        if not counts or None in counts:
            return None
        return sum(count for count in counts if count is not None)


def describe(path: Path, shapes: Mapping[str, Sequence[int]] | None = None) -> Description:
    """Describe an ONNX file; what keeps it from being compiled is part of the answer.

    Args:
        path: The ``.onnx`` file.
        shapes: Input name to shape, as for ``tvmopt.load``.

    Raises:
        ModelError: The file is missing, no ONNX model, or not a valid one.
        ShapeError: ``shapes`` does not fit the model.
    """
    file = read(path)
    known = converter_table().keys() | OPERATORS
    summary = summarize_file(file, known)
    sparsity = _sparsity(tensor.numpy() for tensor, _ in tensors(file.model))
    open_shapes, problem = _fold(file, shapes)
    graph = file.model.graph
    folded = open_shapes is None and problem is None
    missing = unsupported(graph, known)
    return Description(
        summary=summary,
        open_shapes=open_shapes,
        problem=problem,
        layers=tuple(_layer(node) for node in graph) if folded else (),
        unsupported={f"{d}.{op}" if d else op: names for (d, op), names in missing.items()},
        sparsity=sparsity or 0.0,
    )


def _fold(
    file: ModelFile, shapes: Mapping[str, Sequence[int]] | None
) -> tuple[str | None, str | None]:
    """Fix shapes and fold, in place; return what keeps us from either."""
    try:
        inline(file.model, file.label)
        spell_out(file.model, file.label)
        fix_shapes(file.model, shapes, file.label)
    except ShapeError as err:
        if shapes:
            raise
        return str(err), None
    except (ModelError, UnsupportedError) as err:
        return None, str(err)
    try:
        fold(file.model, file.label)
    except ModelError as err:
        return None, str(err)
    return None, None


def _sparsity(constants: Iterable[np.ndarray]) -> float | None:
    """Return the share of zeros in constants of two or more dimensions; None without any."""
    zeros = elements = 0
    for array in constants:
        if array.ndim > 1:
            zeros += array.size - int(np.count_nonzero(array))
            elements += array.size
    return zeros / elements if elements else None


def _layer(node: onnx_ir.Node) -> Layer:
    constants = [
        value.const_value.numpy()
        for value in node.inputs
        if value is not None and value.const_value is not None
    ]
    shape, weight = node.outputs[0].shape, weight_rows(node)
    return Layer(
        name=layer_name(node),
        operator=node.op_type,
        shape=shape.numpy() if shape is not None and shape.is_static() else None,
        macs=node_macs(node),
        parameters=sum(array.size for array in constants),
        sparsity=_sparsity(constants if weight is None else [weight[0]]),
        zeros=None if weight is None else zero_structure(*weight),
        ranks=None if weight is None else _ranks(node, weight[0]),
    )


def _ranks(node: onnx_ir.Node, rows: np.ndarray) -> tuple[int, int, int] | None:
    """Return the ranks that hold 90 % and 99 % of a matrix, and its largest possible one."""
    full = min(rows.shape)
    if node.attributes.get_int("group", 1) > 1 or not rows.any() or full > MOST_SQUARE:
        return None
    wide = (rows if len(rows) == full else rows.T).astype(np.float64)
    # Squares of singular values, whose errors, 1e-16 of the largest, are far below a percent.
    squares = np.linalg.eigvalsh(wide @ wide.T)[::-1]
    values = np.sqrt(np.maximum(squares, 0.0))
    return rank_at(values, 0.9), rank_at(values, 0.99), full
