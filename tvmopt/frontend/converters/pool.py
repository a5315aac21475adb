"""Pooling over windows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tvm import relax

from tvmopt.errors import UnsupportedError
from tvmopt.frontend.converters.node import Converter, Node, rank, shape
from tvmopt.frontend.converters.padding import window_pads
from tvmopt.frontend.converters.tvm_table import tvm_converters

_MAX = {1: relax.op.nn.max_pool1d, 2: relax.op.nn.max_pool2d, 3: relax.op.nn.max_pool3d}
_AVERAGE = {1: relax.op.nn.avg_pool1d, 2: relax.op.nn.avg_pool2d, 3: relax.op.nn.avg_pool3d}


def _pool(node: Node, ops: Mapping[int, Callable[..., relax.Expr]]) -> relax.Expr:
    x = node.input(0)
    kernel = node.attribute("kernel_shape", [])
    if len(kernel) not in ops:
        raise UnsupportedError(f"it must have 1 to 3 spatial dimensions, got {len(kernel)}")
    strides = node.attribute("strides", [1] * len(kernel))
    dilations = node.attribute("dilations", [1] * len(kernel))
    return ops[len(kernel)](
        x,
        pool_size=kernel,
        strides=strides,
        padding=window_pads(node, shape(x)[2:], kernel, strides, dilations),
        dilation=dilations,
        ceil_mode=bool(node.attribute("ceil_mode", 0)),
        count_include_pad=bool(node.attribute("count_include_pad", 0)),
    )


def _max_pool(node: Node) -> relax.Expr:
    if node.outputs > 1:
        raise UnsupportedError("the second output, Indices, must not be used")
    return _pool(node, _MAX)


def _average_pool(node: Node) -> relax.Expr:
    return _pool(node, _AVERAGE)


def _global_average_pool(node: Node) -> relax.Expr:
    x = node.input(0)
    return relax.op.mean(x, list(range(2, rank(x))), keepdims=True)


def _global_max_pool(node: Node) -> relax.Expr:
    x = node.input(0)
    return relax.op.max(x, list(range(2, rank(x))), keepdims=True)


def _roi_align(node: Node) -> relax.Expr:
    """Leave RoiAlign to TVM, but for the maximum, which it takes over the wrong samples."""
    if node.attribute("mode", "avg") != "avg":
        raise UnsupportedError(f"mode must be 'avg', got {node.attribute('mode', 'avg')!r}")
    return tvm_converters()["", "RoiAlign"](node)


TABLE: Mapping[str, Converter] = {
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_average_pool,
    "GlobalMaxPool": _global_max_pool,
    "MaxPool": _max_pool,
    "RoiAlign": _roi_align,
}
