"""Convolutions: depthwise, 1x1 as a matrix product, and the implicit product for the rest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tvm import relax, tirx

from tvmopt import ir
from tvmopt.kernels import conv, depthwise, gemm, winograd, winograd_line
from tvmopt.kernels.conv_site import ConvSite
from tvmopt.lowering.elementwise import match_tail
from tvmopt.lowering.graph import Graph, KernelCall, Node, Replacement
from tvmopt.lowering.kernel_cache import KernelCache
from tvmopt.lowering.sparse_choice import choose_sparse
from tvmopt.lowering.stored_weight import float_weight
from tvmopt.lowering.winograd_choice import choose_winograd
from tvmopt.lowering.winograd_line_choice import choose_winograd_line
from tvmopt.targets.description import CpuTarget


def match_convolution(
    graph: Graph, node: Node, taken: set[int], kernels: KernelCache
) -> Replacement | None:
    """Return the kernel for a float NHWC convolution with constant weights, or None."""
    call = node.value
    if not ir.is_call_to(call, "relax.nn.conv2d") or ir.dtype(node.var) != "float32":
        return None
    weight = float_weight(graph, call.args[1])
    if weight is None or call.attrs.data_layout != "NHWC" or call.attrs.out_layout != "NHWC":
        return None
    weight = as_ohwi(weight, call.attrs.kernel_layout)
    if weight is None:
        return None
    x = call.args[0]
    site = conv_site(call, ir.static_shape(x), weight)
    tail = match_tail(graph, node, taken)
    site = replace(site, epilogue=tail.epilogue)
    covered = set(tail.covered)
    source = planar_source(graph, x)
    if source is not None and not depthwise.applies(site) and not is_product(site):
        site = replace(site, planar=True)
        covered.add(graph.makers[x].index)
        x = source
    kernel, packed, note = _kernel(site, weight, kernels)
    constants: tuple[np.ndarray, ...] = (packed,)
    sparse = choose_sparse(site, weight, kernel, kernels)
    if sparse is not None:
        kernel, constants, note = sparse.kernel, sparse.packed, sparse.note
    return Replacement(
        site=describe(site),
        call=KernelCall(kernel=kernel, args=(x, *constants, *tail.operands)),
        covered=frozenset(covered),
        result=tail.result,
        layer=node.var.name,
        note=note,
    )


def describe(site: ConvSite) -> str:
    """Return the site in words, for reports."""
    kind = "depthwise" if depthwise.applies(site) else "conv"
    (kh, kw), (sh, sw) = site.kernel, site.strides
    size = f"{site.batch}x{site.height}x{site.width}x{site.channels}"
    return f"{kind} {kh}x{kw}/{sh}x{sw} {size} -> {site.out_channels}"


def as_ohwi(weight: np.ndarray, layout: str) -> np.ndarray | None:
    """Return the weight as (o, kh, kw, c / groups)."""
    if sorted(layout) != sorted("OHWI"):
        return None
    return weight.transpose([layout.index(axis) for axis in "OHWI"])


def conv_site(call: relax.Call, shape: tuple[int, ...], weight: np.ndarray) -> ConvSite:
    """Return the site of a convolution.

    Args:
        call: The NHWC convolution.
        shape: Of its input.
        weight: (o, kh, kw, c / groups).
    """
    attrs = call.attrs
    n, h, w, c = shape
    return ConvSite(
        batch=n,
        height=h,
        width=w,
        channels=c,
        out_channels=weight.shape[0],
        kernel=(weight.shape[1], weight.shape[2]),
        strides=ir.pair(attrs.strides),
        pads=ir.sides(attrs.padding),
        dilation=ir.pair(attrs.dilation),
        groups=int(attrs.groups),
    )


def planar_source(graph: Graph, x: relax.Expr) -> relax.Expr | None:
    """Return the NCHW tensor of few channels that ``x`` is a permuted copy of, if only ``x`` is.

    The padding copy of the convolution then does the permutation on its way.
    """
    maker = graph.maker(x)
    if maker is None or not ir.is_call_to(maker.value, "relax.permute_dims"):
        return None
    few = ir.static_shape(x)[-1] <= 4  # more channels make the copy's scattered stores slow
    if ir.permutation(maker.value) != [0, 2, 3, 1] or not few or graph.only_user(x) is None:
        return None
    return maker.value.args[0]


def is_product(site: ConvSite) -> bool:
    """Say whether the convolution is a plain matrix product over pixels."""
    return site.pointwise and site.groups == 1


def _kernel(
    site: ConvSite, weight: np.ndarray, kernels: KernelCache
) -> tuple[tirx.PrimFunc, np.ndarray, str]:
    """Return the kernel, the weights as it reads them, and why it was chosen."""
    target: CpuTarget = kernels.target
    if depthwise.applies(site):
        dw_how = depthwise.config(site, target)
        kernel = kernels.get(
            depthwise.depthwise, "dwconv", site, dw_how, depthwise.cycles(site, dw_how, target)
        )
        return kernel, depthwise.pack(weight, dw_how), ""
    if is_product(site):
        product = gemm.GemmSite(
            m=site.rows, k=site.channels, n=site.out_channels, epilogue=site.epilogue
        )
        how = gemm.config(product, target)
        packed = gemm.pack(weight.reshape(site.out_channels, -1).T, how.tile)
        return (
            kernels.get(gemm.gemm, "gemm", product, how, gemm.cycles(product, how, target)),
            packed,
            "",
        )
    note = ""
    if kernels.options.winograd and winograd.applies(site):
        fast, note = choose_winograd(site, weight, target)
        if fast is not None:
            kernel = kernels.get(
                winograd.winograd, "winograd", site, fast, winograd.cycles(site, fast, target)
            )
            return kernel, winograd.pack(weight, fast), note
    if kernels.options.winograd and winograd_line.applies(site):
        line, note = choose_winograd_line(site, weight, target)
        if line is not None:
            kernel = kernels.get(
                winograd_line.winograd_line,
                f"winograd_line_f{line.m}",
                site,
                line,
                winograd_line.cycles(site, line, target),
            )
            return kernel, winograd_line.pack(weight, line), note
    conv_how = conv.config(site, target)
    kernel = kernels.get(conv.conv, "conv", site, conv_how, conv.cycles(site, conv_how, target))
    return kernel, conv.pack(weight, site.groups, conv_how.tile), note
