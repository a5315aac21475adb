"""Operators that move or repeat elements without computing."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx_ir
from tvm import relax

from tvmopt import ir
from tvmopt.errors import UnsupportedError
from tvmopt.frontend.converters.node import (
    Converter,
    Node,
    axis_of,
    constant,
    rank,
    reshape,
    shape,
)

# Elements of a constant that are worth storing rather than computing.
MOST_STORED = 1 << 16


def _reshape(node: Node) -> relax.Expr:
    x = node.input(0)
    target = node.ints_input(1, "the new shape")
    dims = list(target)
    old = shape(x)
    if not node.attribute("allowzero", 0):
        dims = [old[i] if d == 0 and i < len(old) else d for i, d in enumerate(dims)]
    if -1 in dims:
        rest = math.prod(d for d in dims if d != -1)
        dims[dims.index(-1)] = math.prod(old) // rest if rest else 0
    if math.prod(dims) != math.prod(old) or min(dims, default=1) < 0:
        raise UnsupportedError(f"shape {old} must hold as many elements as {list(target)}")
    return reshape(x, dims)


def _flatten(node: Node) -> relax.Expr:
    x = node.input(0)
    dims = shape(x)
    axis = node.attribute("axis", 1)
    axis = axis + len(dims) if axis < 0 else axis
    return reshape(x, [math.prod(dims[:axis]), math.prod(dims[axis:])])


def _axes(node: Node, rank: int) -> list[int] | None:
    """Return the axes, an attribute before opset 13 and an input since; None if not given."""
    if node.opset < 13:
        axes = node.attribute("axes", None)
    else:
        axes = node.ints_input(1, "axes") if node.has(1) else None
    return None if axes is None else [axis_of(a, rank) for a in axes]


def _squeeze(node: Node) -> relax.Expr:
    x = node.input(0)
    dims = shape(x)
    axes = _axes(node, len(dims))
    gone = {i for i, d in enumerate(dims) if d == 1} if axes is None else set(axes)
    if any(dims[axis] != 1 for axis in gone):
        raise UnsupportedError(f"axes {sorted(gone)} must be of size 1, got the shape {dims}")
    return reshape(x, [d for i, d in enumerate(dims) if i not in gone])


def _unsqueeze(node: Node) -> relax.Expr:
    x = node.input(0)
    dims = shape(x)
    count = len(node.attribute("axes", [])) if node.opset < 13 else shape(node.input(1))[0]
    new = _axes(node, len(dims) + count) or []
    for axis in sorted(new):
        dims.insert(axis, 1)
    return reshape(x, dims)


def transpose(x: relax.Expr, perm: list[int]) -> relax.Expr:
    """Return ``x`` with its axes in the order ``perm``; constants are transposed now."""
    if perm == sorted(perm):
        return x
    value = ir.constant(x)
    if value is not None:
        return constant(value.transpose(perm))
    return relax.op.permute_dims(x, perm)


def _transpose(node: Node) -> relax.Expr:
    x = node.input(0)
    axes = list(range(rank(x)))
    return transpose(x, node.attribute("perm", axes[::-1]))


def _concat(node: Node) -> relax.Expr:
    parts = [node.input(i) for i in range(len(node.inputs))]
    axis = axis_of(node.attribute("axis", 1), rank(parts[0]))
    parts = [x for x in parts if shape(x)[axis] > 0] or parts[:1]
    return parts[0] if len(parts) == 1 else relax.op.concat(parts, axis=axis)


def slice_axis(x: relax.Expr, axis: int, begin: int, end: int, step: int = 1) -> relax.Expr:
    """Return ``x[begin:end:step]`` along ``axis``, 0 <= begin <= end <= size, step >= 1."""
    if (begin, end, step) == (0, shape(x)[axis], 1):
        return x
    return relax.op.strided_slice(x, [axis], [begin], [end], [step])


def _split(node: Node) -> tuple[relax.Expr, ...]:
    x = node.input(0)
    axis = axis_of(node.attribute("axis", 0), rank(x))
    size = shape(x)[axis]
    if node.opset < 13:
        sizes = node.attribute("split", None)
    else:
        sizes = node.ints_input(1, "the sizes of the parts") if node.has(1) else None
    if sizes is None:
        chunk = -(-size // node.outputs)
        sizes = [max(0, min(chunk, size - i * chunk)) for i in range(node.outputs)]
    ends = np.cumsum(sizes).tolist()
    if len(sizes) != node.outputs or ends[-1] != size:
        raise UnsupportedError(f"the parts {sizes} must add up to {size} in {node.outputs} outputs")
    return tuple(slice_axis(x, axis, e - s, e) for s, e in zip(sizes, ends, strict=True))


def _slice(node: Node) -> relax.Expr:
    x = node.input(0)
    dims = shape(x)
    if node.opset < 10:
        starts, ends = node.attribute("starts", []), node.attribute("ends", [])
        axes = node.attribute("axes", list(range(len(starts))))
        steps = [1] * len(starts)
    else:
        starts = node.ints_input(1, "the starts of the slice")
        ends = node.ints_input(2, "the ends of the slice")
        axes = node.ints_input(3, "axes") if node.has(3) else list(range(len(starts)))
        steps = node.ints_input(4, "the steps of the slice") if node.has(4) else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        at = axis_of(axis, len(dims))
        taken = range(*slice(start, end, step).indices(dims[at]))
        if step < 0:
            x = node.emit(relax.op.flip(x, at))
            taken = range(dims[at] - 1 - taken.start, dims[at] - 1 - taken.stop, -step)
        stop = taken[-1] + 1 if len(taken) else taken.start
        x = node.emit(slice_axis(x, at, taken.start, stop, taken.step))
    return x


def _expand(node: Node) -> relax.Expr:
    x = node.input(0)
    target = node.ints_input(1, "the new shape")
    try:
        dims = [int(d) for d in np.broadcast_shapes(tuple(shape(x)), tuple(target))]
    except ValueError as err:
        raise UnsupportedError(f"shape {shape(x)} must broadcast with {target}") from err
    return x if dims == shape(x) else relax.op.broadcast_to(x, dims)


def _tile(node: Node) -> relax.Expr:
    return relax.op.tile(node.input(0), node.ints_input(1, "the repeats"))


def full(value: np.ndarray, dims: list[int]) -> relax.Expr:
    """Return a tensor of one value, stored if it is small and computed if it is not."""
    dtype = str(value.dtype)
    if math.prod(dims) <= MOST_STORED:
        return constant(np.full(dims, value.reshape(()), dtype))
    return relax.op.full(dims, constant(value.reshape(())), dtype)


def _constant_of_shape(node: Node) -> relax.Expr:
    value = node.attribute("value", None)
    fill = np.zeros(1, np.float32) if value is None else np.asarray(value.numpy())
    return full(fill, node.ints_input(0, "the shape"))


def _shape(node: Node) -> relax.Expr:
    dims = shape(node.input(0))[node.attribute("start", 0) : node.attribute("end", None)]
    return constant(np.array(dims, np.int64))


def _size(node: Node) -> relax.Expr:
    return constant(np.array(math.prod(shape(node.input(0))), np.int64))


def _dropout(node: Node) -> tuple[relax.Expr, ...]:
    training = ir.constant(node.input(2)) if node.has(2) else np.array(False)
    if training is None or training.any():
        raise UnsupportedError("training_mode must be false")
    x = node.input(0)
    if node.outputs == 1:
        return (x,)
    kept = np.array(True) if node.opset >= 10 else np.array(1, ir.dtype(x))
    return x, full(kept, shape(x))


def _depth_to_space(node: Node) -> relax.Expr:
    x = node.input(0)
    n, c, h, w = shape(x)
    b = node.attribute("blocksize", 1)
    if node.attribute("mode", "DCR") == "DCR":
        split, perm = [n, b, b, c // (b * b), h, w], [0, 3, 4, 1, 5, 2]
    else:
        split, perm = [n, c // (b * b), b, b, h, w], [0, 1, 4, 2, 5, 3]
    moved = node.emit(relax.op.permute_dims(node.emit(reshape(x, split)), perm))
    return reshape(moved, [n, c // (b * b), h * b, w * b])


def _space_to_depth(node: Node) -> relax.Expr:
    x = node.input(0)
    n, c, h, w = shape(x)
    b = node.attribute("blocksize", 1)
    split = node.emit(reshape(x, [n, c, h // b, b, w // b, b]))
    dcr = node.attribute("mode", "DCR") == "DCR"
    moved = relax.op.permute_dims(split, [0, 3, 5, 1, 2, 4] if dcr else [0, 1, 3, 5, 2, 4])
    return reshape(node.emit(moved), [n, c * b * b, h // b, w // b])


def _identity(node: Node) -> relax.Expr:
    return node.input(0)


def _trilu(node: Node) -> relax.Expr:
    x = node.input(0)
    k = int(node.constant(1, "the diagonal").reshape(())) if node.has(1) else 0
    part = relax.op.triu if node.attribute("upper", 1) else relax.op.tril
    return part(x, k)


def _constant(node: Node) -> relax.Expr:
    for name, attr in node.attributes.items():
        if name == "value" and attr.type == onnx_ir.AttributeType.TENSOR:
            return constant(attr.value.numpy())
        if name in {"value_int", "value_ints"}:
            return constant(np.array(attr.value, np.int64))
        if name in {"value_float", "value_floats"}:
            return constant(np.array(attr.value, np.float32))
    raise UnsupportedError(f"a constant must be a tensor of numbers, got {list(node.attributes)}")


TABLE: Mapping[str, Converter] = {
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "Dropout": _dropout,
    "Expand": _expand,
    "Flatten": _flatten,
    "Identity": _identity,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
}
