"""Operators that pick elements by index."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tvm import relax

from tvmopt import ir
from tvmopt.frontend.converters.layout import slice_axis
from tvmopt.frontend.converters.node import (
    Converter,
    Node,
    axis_of,
    constant,
    rank,
    reshape,
    shape,
)


def _gather(node: Node) -> relax.Expr:
    x, indices = node.input(0), node.input(1)
    axis = axis_of(node.attribute("axis", 0), rank(x))
    known = ir.constant(indices)
    if known is not None:
        if known.size == 1:
            index = int(known.reshape(()))
            index += shape(x)[axis] if index < 0 else 0
            dims = shape(x)
            dims[axis : axis + 1] = known.shape
            return reshape(node.emit(slice_axis(x, axis, index, index + 1)), dims)
        known = np.where(known < 0, known + shape(x)[axis], known)
        indices = constant(known.astype(ir.dtype(indices)))
    # "wrap" is what ONNX means by a negative index, and keeps any index inside the tensor.
    return relax.op.take(x, indices, axis=axis, mode="wrap")


def _not_negative(indices: relax.Expr, extent: int | np.ndarray) -> relax.Expr:
    """Return indices with ``extent``, a number or one a coordinate, added to negative ones."""
    dtype = ir.dtype(indices)
    known = ir.constant(indices)
    if known is not None:
        return constant(np.where(known < 0, known + extent, known).astype(dtype))
    zero = relax.const(0, dtype)
    moved = relax.op.add(indices, constant(np.asarray(extent, dtype)))
    return relax.op.where(relax.op.less(indices, zero), moved, indices)


def _gather_elements(node: Node) -> relax.Expr:
    x, indices = node.input(0), node.input(1)
    axis = axis_of(node.attribute("axis", 0), rank(x))
    return relax.op.gather_elements(x, _not_negative(indices, shape(x)[axis]), axis)


def _gather_nd(node: Node) -> relax.Expr:
    x, indices = node.input(0), node.input(1)
    batch = node.attribute("batch_dims", 0)
    extents = np.array(shape(x)[batch : batch + shape(indices)[-1]])
    return relax.op.gather_nd(x, _not_negative(indices, extents), batch)


TABLE: Mapping[str, Converter] = {
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
}
