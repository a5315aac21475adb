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


def _one_hot(node: Node) -> relax.Expr:
    indices, values = node.input(0), node.input(2)
    depth = int(node.constant(1, "the depth").reshape(-1)[0])
    axis = axis_of(node.attribute("axis", -1), rank(indices) + 1)
    dims = shape(indices)
    dims.insert(axis, 1)
    classes = [depth if i == axis else 1 for i in range(len(dims))]
    dtype = ir.dtype(indices)
    signed = not dtype.startswith("uint")
    wanted = node.emit(_not_negative(indices, depth)) if signed else indices
    places = constant(np.arange(depth).astype(dtype).reshape(classes))
    hit = relax.op.equal(reshape(wanted, dims), places)
    known = ir.constant(values)
    if known is not None:
        off, on = constant(known[0]), constant(known[1])
    else:
        off = reshape(node.emit(slice_axis(values, 0, 0, 1)), [])
        on = reshape(node.emit(slice_axis(values, 0, 1, 2)), [])
    return relax.op.where(hit, on, off)


TABLE: Mapping[str, Converter] = {
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "OneHot": _one_hot,
}
