"""The Pad operator, and the paddings of convolutions and pools."""

from __future__ import annotations

from collections.abc import Mapping

from tvm import relax

from tvmopt import ir
from tvmopt.errors import UnsupportedError
from tvmopt.frontend.converters.layout import slice_axis
from tvmopt.frontend.converters.node import Converter, Node, axis_of, rank, shape

_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def window_pads(
    node: Node, sizes: list[int], kernel: list[int], strides: list[int], dilations: list[int]
) -> list[int]:
    """Return the padding of a convolution or pool: all begins, then all ends.

    Args:
        node: With ``pads`` or ``auto_pad``.
        sizes: Of the input's spatial dimensions.
        kernel: The window's size, by spatial dimension like all that follow.
        strides: Of the window.
        dilations: Of the window.
    """
    mode = node.attribute("auto_pad", "NOTSET")
    if mode == "NOTSET":
        return list(node.attribute("pads", [0] * 2 * len(sizes)))
    if mode == "VALID":
        return [0] * 2 * len(sizes)
    if mode not in {"SAME_UPPER", "SAME_LOWER"}:
        raise UnsupportedError(f"auto_pad must be NOTSET, SAME_* or VALID, got {mode!r}")
    begins, ends = [], []
    for size, k, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        total = max(0, (-(-size // stride) - 1) * stride + (k - 1) * dilation + 1 - size)
        small, large = total // 2, total - total // 2
        begins.append(small if mode == "SAME_UPPER" else large)
        ends.append(large if mode == "SAME_UPPER" else small)
    return begins + ends


def pad(
    node: Node, x: relax.Expr, begins: list[int], ends: list[int], mode: str, value: float
) -> relax.Expr:
    """Return ``x`` padded by ``begins`` and ``ends``, by axis; negative ones cut off.

    Args:
        node: Where intermediate results go.
        x: Any tensor.
        begins: Elements before, by axis.
        ends: Elements after, by axis.
        mode: As ONNX spells it.
        value: Of the new elements in mode "constant".
    """
    for axis, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        if begin < 0 or end < 0:
            x = node.emit(slice_axis(x, axis, max(0, -begin), shape(x)[axis] + min(0, end)))
    widths = [max(0, w) for pair in zip(begins, ends, strict=True) for w in pair]
    if not any(widths):
        return x
    return relax.op.nn.pad(x, widths, _MODES[mode], value)


def _pad(node: Node) -> relax.Expr:
    x = node.input(0)
    mode = node.attribute("mode", "constant")
    if mode not in _MODES:
        raise UnsupportedError(f"mode must be one of {', '.join(_MODES)}, got {mode!r}")
    begins, ends = [0] * rank(x), [0] * rank(x)
    if node.opset < 11:
        pads, axes = node.attribute("pads", []), list(range(rank(x)))
        value = node.attribute("value", 0.0)
    else:
        pads = node.ints_input(1, "the padding")
        axes = node.ints_input(3, "axes") if node.has(3) else list(range(rank(x)))
        value = node.constant(2, "the value of the padding").item() if node.has(2) else 0
    for i, axis in enumerate(axes):
        at = axis_of(axis, rank(x))
        begins[at], ends[at] = pads[i], pads[i + len(axes)]
    if ir.dtype(x) == "bool":
        raise UnsupportedError("the tensor to pad must hold numbers, got bool")
    return pad(node, x, begins, ends, mode, value)


TABLE: Mapping[str, Converter] = {"Pad": _pad}
