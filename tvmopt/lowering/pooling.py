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
    """Return the kernel for an NHWC pooling without dilation, or None.

    Means are of floats, a maximum may also be one of 8-bit integers.
    """
    site = pool_site(node)
    types = {"float32": "f32"} | ({"uint8": "u8", "int8": "s8"} if _is_max(node) else {})
    if site is None or site.dtype not in types:
        return None
    name = f"{site.kind}pool"
    cycles = pool.cycles(site, kernels.target)
    kernel = kernels.get(pool.pool, name, site, kernels.target, cycles, types=types[site.dtype])
    return _replacement(node, node.value, name, kernel)


def _is_max(node: Node) -> bool:
    return ir.is_call_to(node.value, "relax.nn.max_pool2d")


def pool_site(node: Node) -> PoolSite | None:
    """Return the windows of an NHWC pooling without dilation; None for anything else."""
    call = node.value
    if not ir.is_call_to(call, "relax.nn.max_pool2d", "relax.nn.avg_pool2d"):
        return None
    attrs = call.attrs
    if attrs.layout != "NHWC" or attrs.out_layout != "NHWC":
        return None
    if any(int(d) != 1 for d in attrs.dilation):
        return None
    n, h, w, c = ir.static_shape(call.args[0])
    site = PoolSite(
        kind="max" if _is_max(node) else "mean",
        batch=n,
        height=h,
        width=w,
        channels=c,
        kernel=ir.pair(attrs.pool_size),
        strides=ir.pair(attrs.strides),
        pads=ir.sides(attrs.padding),
        out_size=ir.pair(ir.static_shape(node.var)[1:3]),
        count_pad=bool(attrs.count_include_pad),
        dtype=ir.dtype(node.var),
    )
    # Windows that reach beyond the padding would count fewer taps.
    return None if site.count_pad and attrs.ceil_mode else site


def match_global_mean(
    _graph: Graph, node: Node, _taken: set[int], kernels: KernelCache
) -> Replacement | None:
    """Return the kernel for the mean over the middle axes of a float NHWC tensor, or None."""
    call = node.value
    if not is_global_mean(call) or ir.dtype(node.var) != "float32":
        return None
    shape = ir.static_shape(call.args[0])
    site = GlobalMeanSite(batch=shape[0], pixels=prod(shape[1:-1]), channels=shape[-1])
    kernel = kernels.get(
        global_pool.global_mean,
        "global_mean",
        site,
        kernels.target,
        global_pool.cycles(site, kernels.target),
    )
    return _replacement(node, call, "global mean", kernel)


def is_global_mean(call: relax.Expr) -> bool:
    """Say whether a value is the mean over all axes but the first and the last."""
    if not ir.is_call_to(call, "relax.mean"):
        return False
    rank = len(ir.shape(call.args[0]))
    axes = sorted(int(a) % rank for a in call.attrs.axis or range(rank))
    return axes == list(range(1, rank - 1))


def _replacement(node: Node, call: relax.Call, name: str, kernel: tirx.PrimFunc) -> Replacement:
    return Replacement(
        site=f"{name} {ir.static_shape(call.args[0])}",
        call=KernelCall(kernel=kernel, args=(call.args[0],)),
        covered=frozenset({node.index}),
        result=node,
        layer=node.var.name,
    )
