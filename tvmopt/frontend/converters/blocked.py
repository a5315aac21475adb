"""Quantization with a scale for each block of neighbours along one axis.

For x: (..., d, ...) in blocks of b, scales: (..., ceil(d / b), ...). What is constant becomes the
form that kernels match (``forms.Grouped``).
"""

from __future__ import annotations

import numpy as np
from tvm import relax

from tvmopt import forms, ir
from tvmopt.errors import UnsupportedError
from tvmopt.frontend.converters.node import Node, axis_of, constant, rank, reshape, shape


def dequantize(
    node: Node, x: relax.Expr, scale: relax.Expr, zero: relax.Expr | None, out: str
) -> relax.Expr:
    """Return (x - zero) * scale in the type ``out``."""
    axis, size = _blocks(node, x, scale)
    known = [ir.constant(e) for e in (x, scale)]
    zeros = None if zero is None else ir.constant(zero)
    if known[0] is not None and known[1] is not None and (zero is None or zeros is not None):
        y = _constant(node, known[0], known[1], zeros, axis, size)
        return y if out == "float32" else relax.op.astype(y, out)
    codes, units = _spread(node, x, axis, size), _repeated(node, x, scale, axis, size)
    wide = node.emit(relax.op.astype(codes, "float32"))
    if zero is not None:
        points = _repeated(node, x, zero, axis, size)
        wide = node.emit(relax.op.subtract(wide, _float(node, points)))
    y = node.emit(relax.op.multiply(wide, _float(node, units)))
    y = reshape(y, shape(x))
    return y if out == "float32" else relax.op.astype(node.emit(y), out)


def quantize(node: Node, x: relax.Expr, scale: relax.Expr, zero: relax.Expr) -> relax.Expr:
    """Return clip(round(x / scale) + zero) in the type of ``zero``."""
    axis, size = _blocks(node, x, scale)
    data, units = _spread(node, x, axis, size), _repeated(node, x, scale, axis, size)
    rounded = node.emit(relax.op.round(node.emit(relax.op.divide(data, units))))
    points = _repeated(node, x, zero, axis, size)
    dtype = ir.dtype(zero)
    moved = node.emit(relax.op.add(_float(node, rounded), _float(node, points)))
    bounds = np.iinfo(dtype)
    clipped = node.emit(relax.op.clip(moved, float(bounds.min), float(bounds.max)))
    return reshape(node.emit(relax.op.astype(clipped, dtype)), shape(x))


def _constant(
    node: Node,
    codes: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray | None,
    axis: int,
    size: int,
) -> relax.Expr:
    """Return a constant in blocks as the form that kernels match, if the blocks are whole."""
    d = codes.shape[axis]
    if d % size:
        pad = [(0, -d % size if i == axis else 0) for i in range(codes.ndim)]
        whole = _constant(node, np.pad(codes, pad), scale, zero, axis, size)
        return relax.op.strided_slice(node.emit(whole), [axis], [0], [d])
    cut = (*codes.shape[:axis], d // size, size, *codes.shape[axis + 1 :])
    points = None if zero is None or not zero.any() else np.expand_dims(zero, axis + 1)
    return forms.Grouped(
        codes=codes.reshape(cut),
        scale=np.expand_dims(scale, axis + 1).astype(np.float32),
        zero=None if points is None else points.astype(np.float32),
        axis=axis,
    ).build(lambda expr, _name: node.emit(expr), node.name)


def _blocks(node: Node, x: relax.Expr, scale: relax.Expr) -> tuple[int, int]:
    """Return the axis that is cut into blocks and their size.

    Raises:
        UnsupportedError: There are not as many scales as blocks.
    """
    axis, size = axis_of(node.attribute("axis", 1), rank(x)), node.attribute("block_size", 0)
    expected = [-(-d // size) if i == axis else d for i, d in enumerate(shape(x))]
    if shape(scale) != expected:
        raise UnsupportedError(f"its scales must have the shape {expected}, got {shape(scale)}")
    return axis, size


def _spread(node: Node, x: relax.Expr, axis: int, size: int) -> relax.Expr:
    """Return x with its blocks along an axis of their own, if they are whole."""
    dims = shape(x)
    if dims[axis] % size:
        return x
    return node.emit(reshape(x, [*dims[:axis], dims[axis] // size, size, *dims[axis + 1 :]]))


def _repeated(node: Node, x: relax.Expr, values: relax.Expr, axis: int, size: int) -> relax.Expr:
    """Return scales or zero points so that they broadcast against :func:`_spread` of x."""
    dims, d = shape(values), shape(x)[axis]
    if d % size == 0:
        return node.emit(reshape(values, [*dims[: axis + 1], 1, *dims[axis + 1 :]]))
    known = ir.constant(values)
    if known is not None:
        return constant(known.repeat(size, axis).take(range(d), axis))
    whole = node.emit(relax.op.repeat(values, size, axis))
    return node.emit(relax.op.strided_slice(whole, [axis], [0], [d]))


def _float(node: Node, x: relax.Expr) -> relax.Expr:
    if ir.dtype(x) == "float32":
        return x
    value = ir.constant(x)
    if value is not None:
        return constant(value.astype(np.float32))
    return node.emit(relax.op.astype(x, "float32"))
