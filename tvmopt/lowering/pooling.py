"""Pooling over windows and over whole images."""

from __future__ import annotations

from math import prod

from tvm import relax, tirx

from tvmopt import ir
from tvmopt.kernels import global_pool, pool
from tvmopt.kernels.global_pool import GlobalMeanSite
from tvmopt.kernels.pool import PoolSite
from tvmopt.lowering.graph import Graph, KernelCall, Node, Replacement
from tvmopt.lowering.kernel_cache import KernelCache


def match_pool(
    _graph: Graph, node: Node, _taken: set[int], kernels: KernelCache
) -> Replacement | None:
    """Return the kernel for a float NHWC pooling without dilation, or None."""
    call = node.value
    if not ir.is_call_to(call, "relax.nn.max_pool2d", "relax.nn.avg_pool2d"):
        return None
    attrs = call.attrs
    if ir.dtype(node.var) != "float32" or attrs.layout != "NHWC" or attrs.out_layout != "NHWC":
        return None
    if any(int(d) != 1 for d in attrs.dilation):
        return None
    n, h, w, c = ir.static_shape(call.args[0])
    site = PoolSite(
        kind="max" if "max" in call.op.name else "mean",
        batch=n,
        height=h,
        width=w,
        channels=c,
        kernel=ir.pair(attrs.pool_size),
        strides=ir.pair(attrs.strides),
        pads=ir.sides(attrs.padding),
        out_size=ir.pair(ir.static_shape(node.var)[1:3]),
        count_pad=bool(attrs.count_include_pad),
    )
    if site.count_pad and attrs.ceil_mode:
        return None  # windows that reach beyond the padding count fewer taps
    name = f"{site.kind}pool"
    return _replacement(
        node,
        call,
        name,
        kernels.get(pool.pool, name, site, kernels.target, pool.cycles(site, kernels.target)),
    )


def match_global_mean(
    _graph: Graph, node: Node, _taken: set[int], kernels: KernelCache
) -> Replacement | None:
    """Return the kernel for the mean over the middle axes of a float NHWC tensor, or None."""
    call = node.value
    if not ir.is_call_to(call, "relax.mean") or ir.dtype(node.var) != "float32":
        return None
    shape = ir.static_shape(call.args[0])
    axes = sorted(int(a) % len(shape) for a in call.attrs.axis or range(len(shape)))
    if axes != list(range(1, len(shape) - 1)):
        return None
    site = GlobalMeanSite(batch=shape[0], pixels=prod(shape[1:-1]), channels=shape[-1])
    kernel = kernels.get(
        global_pool.global_mean,
        "global_mean",
        site,
        kernels.target,
        global_pool.cycles(site, kernels.target),
    )
    return _replacement(node, call, "global mean", kernel)


def _replacement(node: Node, call: relax.Call, name: str, kernel: tirx.PrimFunc) -> Replacement:
    return Replacement(
        site=f"{name} {ir.static_shape(call.args[0])}",
        call=KernelCall(kernel=kernel, args=(call.args[0],)),
        covered=frozenset({node.index}),
        result=node,
        layer=node.var.name,
    )
