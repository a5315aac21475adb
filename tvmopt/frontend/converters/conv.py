"""Convolutions and transposed convolutions in one, two and three dimensions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tvm import relax

from tvmopt import ir
from tvmopt.errors import UnsupportedError
from tvmopt.frontend.converters.node import Converter, Node, constant, rank, reshape, shape
from tvmopt.frontend.converters.padding import pad, window_pads

_CONV = {
    1: (relax.op.nn.conv1d, "NCW", "OIW"),
    2: (relax.op.nn.conv2d, "NCHW", "OIHW"),
    3: (relax.op.nn.conv3d, "NCDHW", "OIDHW"),
}
_TRANSPOSE = {
    1: (relax.op.nn.conv1d_transpose, "NCW", "IOW"),
    2: (relax.op.nn.conv2d_transpose, "NCHW", "IOHW"),
    3: (relax.op.nn.conv3d_transpose, "NCDHW", "IODHW"),
}


def _spatial(node: Node) -> int:
    count = rank(node.input(0)) - 2
    if count not in _CONV:
        raise UnsupportedError(f"it must have 1 to 3 spatial dimensions, got {count}")
    return count


def _add_bias(node: Node, y: relax.Expr) -> relax.Expr:
    if not node.has(2):
        return y
    bias = node.input(2)
    return relax.op.add(y, reshape(bias, [1, *shape(bias), *[1] * (rank(node.input(0)) - 2)]))


def _conv(node: Node) -> relax.Expr:
    return _add_bias(node, convolution(node, node.input(0), node.input(1)))


def convolution(node: Node, x: relax.Expr, weight: relax.Expr) -> relax.Expr:
    """Return ``x``, (n, c, ...), convolved with ``weight``, (o, c / group, ...), without a bias.

    Args:
        node: With the strides, dilations, groups and padding.
        x: The data.
        weight: The kernel, of the same element type.
    """
    count = _spatial(node)
    kernel = shape(weight)[2:]
    strides = node.attribute("strides", [1] * count)
    dilations = node.attribute("dilations", [1] * count)
    op, data_layout, kernel_layout = _CONV[count]
    return op(
        x,
        weight,
        strides=strides,
        padding=window_pads(node, shape(x)[2:], kernel, strides, dilations),
        dilation=dilations,
        groups=node.attribute("group", 1),
        data_layout=data_layout,
        kernel_layout=kernel_layout,
    )


def _conv_transpose(node: Node) -> relax.Expr:
    """Convert a transposed convolution; output padding is taken from the end's padding first."""
    x, weight = node.input(0), node.input(1)
    count = _spatial(node)
    weight, kernel = _dilated(weight, node.attribute("dilations", [1] * count))
    strides = node.attribute("strides", [1] * count)
    begins, ends = _transpose_pads(node, shape(x)[2:], kernel, strides)
    op, data_layout, kernel_layout = _TRANSPOSE[count]
    y = op(
        x,
        weight,
        strides=strides,
        padding=[max(0, p) for p in begins + ends],
        groups=node.attribute("group", 1),
        data_layout=data_layout,
        kernel_layout=kernel_layout,
    )
    if min(begins + ends) < 0:  # the output reaches beyond where any input contributes
        before, after = ([0, 0, *(max(0, -p) for p in pads)] for pads in (begins, ends))
        y = pad(node, node.emit(y), before, after, "constant", 0.0)
    return _add_bias(node, y)


def _dilated(weight: relax.Expr, dilations: list[int]) -> tuple[relax.Expr, list[int]]:
    """Return the kernel with the gaps of its dilation filled with zeros, and its size."""
    kernel = shape(weight)[2:]
    if all(d == 1 for d in dilations):
        return weight, kernel
    value = ir.constant(weight)
    if value is None:
        raise UnsupportedError("dilations must be 1 where the kernel is computed from the data")
    size = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    spread = np.zeros((*value.shape[:2], *size), value.dtype)
    spread[(slice(None), slice(None), *(slice(None, None, d) for d in dilations))] = value
    return constant(spread), size


def _transpose_pads(
    node: Node, sizes: list[int], kernel: list[int], strides: list[int]
) -> tuple[list[int], list[int]]:
    """Return what to cut off the full output before and after, by dimension; may be negative."""
    count = len(sizes)
    extra = node.attribute("output_padding", [0] * count)
    whole = [(i - 1) * s + k for i, s, k in zip(sizes, strides, kernel, strict=True)]
    target = node.attribute("output_shape", None)
    mode = node.attribute("auto_pad", "NOTSET")
    if target is None and mode in {"SAME_UPPER", "SAME_LOWER"}:
        target = [i * s for i, s in zip(sizes, strides, strict=True)]
    if target is None:
        pads = node.attribute("pads", [0] * 2 * count) if mode == "NOTSET" else [0] * 2 * count
        return pads[:count], [p - e for p, e in zip(pads[count:], extra, strict=True)]
    target = target[-count:]  # some exporters write the batch and the channels too
    begins, ends = [], []
    for full, out, more in zip(whole, target, extra, strict=True):
        total = full + more - out
        begin = total // 2 if mode == "SAME_UPPER" else total - total // 2
        begins.append(max(0, begin))
        ends.append(total - begins[-1] - more)
    return begins, ends


TABLE: Mapping[str, Converter] = {"Conv": _conv, "ConvTranspose": _conv_transpose}
