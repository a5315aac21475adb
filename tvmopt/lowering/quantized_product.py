"""Convolutions and matrix products of quantized tensors: exact integer kernels."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
from tvm import relax

from tvmopt import forms, ir
from tvmopt.forms import Product
from tvmopt.kernels.conv_site import ConvSite
from tvmopt.kernels.qconv_site import QConvSite, largest_of
from tvmopt.lowering.convolution import as_ohwi, conv_site, describe
from tvmopt.lowering.elementwise import match_tail
from tvmopt.lowering.graph import Graph, KernelCall, Node, Replacement
from tvmopt.lowering.kernel_cache import KernelCache
from tvmopt.lowering.quantized_choice import TYPES, WORDS, choose_kernel
from tvmopt.lowering.requantize import integer_epilogue, take_bias

LARGEST_SUM = 2.0**31 - 1  # of words: beyond, 32 bits might not hold one


def match_quantized_product(
    graph: Graph, node: Node, taken: set[int], kernels: KernelCache
) -> Replacement | None:
    """Return the integer kernel for a convolution or linear layer of quantized operands, or None.

    Depthwise convolutions have a faster one of their own, tried before.
    """
    product = forms.match_product(node.value, graph.definition)
    if product is None or product.codes is None or product.data_how.dtype not in TYPES | WORDS:
        return None
    found = site_and_weight(product)
    if found is None:
        return None
    conv, weight = found
    tail = match_tail(graph, node, taken)
    unit = unit_of(product)
    program, bias = take_bias(tail.program, unit.astype(np.float32), conv.out_channels)
    limit = limit_of(product, weight, bias)
    if product.data_how.dtype in WORDS and limit > LARGEST_SUM:
        return None
    epilogue, inputs = integer_epilogue(program, unit, limit)
    site = QConvSite(
        conv=replace(conv, epilogue=epilogue),
        dtype=product.data_how.dtype,
        zero_point=int(product.data_how.zero_point),
        largest=largest_of(weight),
    )
    chosen = choose_kernel(site, weight, bias, kernels)
    tensors = tuple(read.value for read in inputs)
    return Replacement(
        site=describe(conv)
        if _is_conv(product)
        else f"linear {conv.width}x{conv.channels} @ {conv.channels}x{conv.out_channels}",
        call=KernelCall(kernel=chosen.kernel, args=(product.data, *chosen.packed, *tensors)),
        covered=tail.covered,
        result=tail.result,
        layer=node.var.name,
        note=chosen.note,
    )


def _is_conv(product: Product) -> bool:
    return ir.is_call_to(product.call, "relax.nn.conv2d")


def site_and_weight(product: Product) -> tuple[ConvSite, np.ndarray] | None:
    """Return the convolution and its integer weights, (o, kh, kw, c / groups), zero at 0."""
    codes, how = product.codes, product.weight_how
    assert codes is not None, "the caller has asked for constant weights"
    zero = how.along(how.zero_point, codes.ndim) if how.scale.ndim else how.zero_point
    weight = codes.astype(np.int64) - zero
    if not _is_conv(product):
        return _linear(product.data, weight)
    attrs = product.call.attrs
    ordered = as_ohwi(weight, attrs.kernel_layout)
    if ordered is None or attrs.data_layout != "NHWC" or attrs.out_layout != "NHWC":
        return None
    site = conv_site(product.call, ir.static_shape(product.data), ordered)
    return site, ordered


def _linear(data: relax.Expr, weight: np.ndarray) -> tuple[ConvSite, np.ndarray] | None:
    """Return a product with a matrix (k, n) as the convolution of one line by 1x1."""
    shape = ir.static_shape(data)
    if min(weight.ndim, len(shape)) < 2 or prod(weight.shape[:-2]) != 1:
        return None
    k, n = weight.shape[-2:]
    site = ConvSite(
        batch=1, height=1, width=prod(shape[:-1]), channels=k, out_channels=n, kernel=(1, 1)
    )
    return site, np.ascontiguousarray(weight.reshape(k, n).T).reshape(n, 1, 1, k)


def unit_of(product: Product) -> np.ndarray:
    """Return what the sums count in, float64: () or one for each output channel."""
    return np.float64(product.data_how.scale) * product.weight_how.scale.astype(np.float64)


def limit_of(product: Product, weight: np.ndarray, bias: np.ndarray) -> float:
    """Return a bound on the magnitude of the sums."""
    how = product.data_how
    reach = max(how.high - int(how.zero_point), int(how.zero_point) - how.low)
    sums = np.abs(weight).sum((1, 2, 3), dtype=np.float64) * reach
    return float(np.max(sums + np.abs(bias)))
