"""Float convolutions whose constant weights are stored in fewer bits."""

from __future__ import annotations

from dataclasses import replace

from tvm import tirx

from tvmopt import forms, ir
from tvmopt.forms import Cast
from tvmopt.kernels import weight_conv, winograd
from tvmopt.kernels.conv_site import ConvSite
from tvmopt.kernels.tile import Tile
from tvmopt.kernels.weight_conv import WeightConvSite
from tvmopt.kernels.weight_site import WeightSite
from tvmopt.lowering.convolution import conv_site, describe, is_product, planar_source
from tvmopt.lowering.elementwise import match_tail
from tvmopt.lowering.graph import Graph, KernelCall, Node, Replacement
from tvmopt.lowering.kernel_cache import KernelCache
from tvmopt.lowering.stored_weight import Coded, code_of, taps_by_outputs
from tvmopt.lowering.weight_only import product_kernel

DIRECT = "direct, for Winograd's form would store its weights as float32"


def match_stored_convolution(
    graph: Graph, node: Node, taken: set[int], kernels: KernelCache
) -> Replacement | None:
    """Return the kernel for a float convolution, of one group, with weights in fewer bits, or None.

    Other convolutions take what their weights stand for, as float32: where there are groups, these
    are few.
    """
    call = node.value
    if not ir.is_call_to(call, "relax.nn.conv2d") or ir.dtype(node.var) != "float32":
        return None
    stored = forms.match_stored(call.args[1], graph.definition)
    layouts = call.attrs.data_layout, call.attrs.out_layout
    if stored is None or layouts != ("NHWC", "NHWC") or int(call.attrs.groups) != 1:
        return None
    if isinstance(stored, Cast) and stored.dtype != "float32":
        return None
    order = [call.attrs.kernel_layout.index(axis) for axis in "OHWI"]
    stored = stored.transposed(order)
    matrix = taps_by_outputs(stored)
    coded = None if matrix is None else code_of(matrix, kernels.target)
    if coded is None:
        return None
    tail = match_tail(graph, node, taken)
    x, covered = call.args[0], set(tail.covered)
    site = conv_site(call, ir.static_shape(x), stored.value())
    site = replace(site, epilogue=tail.epilogue)
    source = planar_source(graph, x)
    if source is not None and not is_product(site):
        site = replace(site, planar=True)
        covered.add(graph.makers[x].index)
        x = source
    kernel, tile = _kernel(site, coded, kernels)
    product = WeightConvSite(conv=site, code=coded.code).product
    return Replacement(
        site=describe(site),
        call=KernelCall(kernel=kernel, args=(x, *coded.pack(product, tile), *tail.operands)),
        covered=frozenset(covered),
        result=tail.result,
        layer=node.var.name,
        note=DIRECT if winograd.applies(site) and not is_product(site) else "",
    )


def _kernel(site: ConvSite, coded: Coded, kernels: KernelCache) -> tuple[tirx.PrimFunc, Tile]:
    """Return the kernel, and its tile."""
    code, target = coded.code, kernels.target
    if is_product(site):
        product = WeightSite(
            m=site.rows, k=site.channels, n=site.out_channels, code=code, epilogue=site.epilogue
        )
        return product_kernel(product, kernels)
    whole = WeightConvSite(conv=site, code=code)
    how = weight_conv.config(whole, target)
    cycles = weight_conv.cycles(whole, how, target)
    kernel = kernels.get(weight_conv.weight_conv, f"{code.name}_conv", whole, how, cycles)
    return kernel, how.tile
