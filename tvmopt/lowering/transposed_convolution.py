"""Transposed convolutions."""

from __future__ import annotations

from dataclasses import replace

from tvmopt import ir
from tvmopt.kernels import conv_transpose
from tvmopt.kernels.conv_transpose import ConvTransposeSite
from tvmopt.lowering.elementwise import match_tail
from tvmopt.lowering.graph import Graph, KernelCall, Node, Replacement
from tvmopt.lowering.kernel_cache import KernelCache
from tvmopt.lowering.stored_weight import float_weight


def match_transposed_convolution(
    graph: Graph, node: Node, taken: set[int], kernels: KernelCache
) -> Replacement | None:
    """Return the kernel for a float NHWC transposed convolution with constant weights, or None."""
    call = node.value
    if not ir.is_call_to(call, "relax.nn.conv2d_transpose") or ir.dtype(node.var) != "float32":
        return None
    weight, attrs = float_weight(graph, call.args[1]), call.attrs
    if weight is None or (attrs.data_layout, attrs.kernel_layout) != ("NHWC", "OHWI"):
        return None
    n, h, w, c = ir.static_shape(call.args[0])
    out = ir.static_shape(node.var)
    tail = match_tail(graph, node, taken)
    site = ConvTransposeSite(
        batch=n,
        height=h,
        width=w,
        channels=c,
        out_channels=out[3],
        kernel=(weight.shape[1], weight.shape[2]),
        strides=ir.pair(attrs.strides),
        pads=ir.sides(attrs.padding)[:2],
        dilation=ir.pair(attrs.dilation),
        groups=int(attrs.groups),
        out_size=ir.pair(out[1:3]),
    )
    site = replace(site, epilogue=tail.epilogue)
    how = conv_transpose.config(site, kernels.target)
    cycles = conv_transpose.cycles(site, how, kernels.target)
    kernel = kernels.get(conv_transpose.conv_transpose, "conv_transpose", site, how, cycles)
    packed = conv_transpose.pack(weight, site.groups, how.tile)
    return Replacement(
        site=f"conv_transpose {site.kernel[0]}x{site.kernel[1]} {n}x{h}x{w}x{c} -> {out[3]}",
        call=KernelCall(kernel=kernel, args=(call.args[0], packed, *tail.operands)),
        covered=tail.covered,
        result=tail.result,
        layer=node.var.name,
    )
