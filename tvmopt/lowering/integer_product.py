"""Matrix products of bare integers whose zero point is known at run time (ONNX's MatMulInteger)."""

from __future__ import annotations

from math import prod

import numpy as np
from tvm import relax

from tvmopt import forms, ir
from tvmopt.forms import Centred
from tvmopt.kernels import qconv
from tvmopt.kernels.conv_site import ConvSite
from tvmopt.kernels.qconv_chained import best
from tvmopt.kernels.qconv_site import QConvSite
from tvmopt.lowering.elementwise import match_tail
from tvmopt.lowering.graph import Graph, KernelCall, Node, Replacement
from tvmopt.lowering.kernel_cache import KernelCache
from tvmopt.lowering.quantized_choice import TYPES, weight_bits

LARGEST = 2**15 - 1  # of a weight that a kernel multiplies


def match_integer_product(
    graph: Graph, node: Node, taken: set[int], kernels: KernelCache
) -> Replacement | None:
    """Return the kernel for a product of integers with a constant matrix, or None.

    Its sums must be read once, as float32: what follows is done before they are stored.
    """
    product = forms.match_integer_product(node.value, graph.definition)
    if product is None or not ir.is_call_to(product.call, "relax.matmul"):
        return None
    weight = _matrix(product.weight)
    reader = graph.only_user(node.var)
    if weight is None or reader is None or reader.index in taken:
        return None
    if not ir.is_call_to(reader.value, "relax.astype") or ir.dtype(reader.var) != "float32":
        return None
    zero = product.data.zero
    if zero is not None and prod(ir.static_shape(zero)) != 1:
        return None
    tail = match_tail(graph, reader, taken)
    k, n = weight.shape
    conv = ConvSite(
        batch=1,
        height=1,
        width=prod(ir.static_shape(product.data.codes)[:-1]),
        channels=k,
        out_channels=n,
        kernel=(1, 1),
        epilogue=tail.epilogue,
    )
    site = QConvSite(
        conv=conv,
        dtype=ir.dtype(product.data.codes),
        zero_point=0,
        largest=int(np.abs(weight).max()),
        zero_dtype=None if zero is None else ir.dtype(zero),
    )
    kernel_call = _call(site, weight, product.data, tail.operands, kernels)
    return Replacement(
        site=f"integer linear {conv.width}x{k} @ {k}x{n}",
        call=kernel_call,
        covered=tail.covered | {node.index},
        result=tail.result,
        layer=node.var.name,
    )


def _call(
    site: QConvSite,
    weight: np.ndarray,
    data: Centred,
    operands: tuple[relax.Expr | np.ndarray, ...],
    kernels: KernelCache,
) -> KernelCall:
    """Return the kernel's call; weight: (k, n), int64."""
    kernel_weight = np.ascontiguousarray(weight.T).reshape(weight.shape[1], 1, 1, -1)
    none = np.zeros(weight.shape[1], np.int64)
    how, packed = best(site, kernel_weight, none, kernels.target)
    cycles = qconv.cycles(site, how, kernels.target)
    types = f"{TYPES[site.dtype]}_qc{weight_bits(site.largest)}w"
    kernel = kernels.get(qconv.qconv, f"{how.dot.key}_gemm", site, how, cycles, types)
    zeros: tuple[relax.Expr | np.ndarray, ...] = ()
    if data.zero is not None:
        sums = qconv.pack_bias(weight.sum(0), np.zeros_like(kernel_weight), site, how)
        zeros = (data.zero, sums)
    return KernelCall(kernel=kernel, args=(data.codes, *packed, *zeros, *operands))


def _matrix(weight: Centred) -> np.ndarray | None:
    """Return a constant matrix of integers less their zero point, (k, n) int64, or None."""
    codes = ir.constant(weight.codes)
    zero = np.zeros(()) if weight.zero is None else ir.constant(weight.zero)
    if codes is None or zero is None or codes.ndim != 2:
        return None
    centred: np.ndarray = codes.astype(np.int64) - zero.astype(np.int64)
    return centred if np.abs(centred).max() <= LARGEST else None
