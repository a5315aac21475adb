"""Products and convolutions of bare integers (ONNX's MatMulInteger and ConvInteger).

Their zero point may be known at run time alone, as that of DynamicQuantizeLinear is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import numpy as np
from tvm import relax

from tvmopt import forms, ir
from tvmopt.forms import Centred, IntegerProduct
from tvmopt.kernels import depthwise, qconv
from tvmopt.kernels.conv_site import ConvSite
from tvmopt.kernels.depthwise_start import pack_start, split_bias
from tvmopt.kernels.qconv_chained import best
from tvmopt.kernels.qconv_site import QConvSite, largest_of
from tvmopt.lowering.convolution import as_ohwi, conv_site, describe
from tvmopt.lowering.elementwise import match_tail
from tvmopt.lowering.graph import Graph, KernelCall, Node, Replacement
from tvmopt.lowering.kernel_cache import KernelCache
from tvmopt.lowering.quantized_choice import TYPES, choose_kernel, weight_bits

LARGEST = 2**15 - 1  # of a weight that a kernel multiplies

Args = tuple[relax.Expr | np.ndarray, ...]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Task:
    """What to find a kernel for.

    Attributes:
        site: The convolution, or a product as one of a line of pixels by 1x1.
        weight: Integers less their zero point, (o, kh, kw, c / groups) int64.
        data: The activations.
        operands: Of the epilogue.
        kernels: Makes the kernel.
    """

    site: QConvSite
    weight: np.ndarray
    data: Centred
    operands: Args
    kernels: KernelCache


def match_integer_product(
    graph: Graph, node: Node, taken: set[int], kernels: KernelCache
) -> Replacement | None:
    """Return the kernel for a product of integers with constant ones, or None.

    Its sums must be read once, as float32: what follows is done before they are stored.
    """
    product = forms.match_integer_product(node.value, graph.definition)
    reader = graph.only_user(node.var)
    if product is None or reader is None or reader.index in taken:
        return None
    if not ir.is_call_to(reader.value, "relax.astype") or ir.dtype(reader.var) != "float32":
        return None
    found = _site_and_weight(product)
    site = None if found is None else _with_zero_point(found[0], found[1], product.data)
    if found is None or site is None:
        return None
    tail = match_tail(graph, reader, taken, ones=True)
    task = _Task(
        site=replace(site, conv=replace(site.conv, epilogue=tail.epilogue)),
        weight=found[1],
        data=product.data,
        operands=tail.operands,
        kernels=kernels,
    )
    return Replacement(
        site=_described(product, site.conv),
        call=_depthwise(task) or (_direct(task) if site.zero_dtype else _any(task)),
        covered=tail.covered | {node.index},
        result=tail.result,
        layer=node.var.name,
    )


def _described(product: IntegerProduct, conv: ConvSite) -> str:
    if ir.is_call_to(product.call, "relax.nn.conv2d"):
        return f"integer {describe(conv)}"
    return f"integer linear {conv.width}x{conv.channels} @ {conv.channels}x{conv.out_channels}"


def _site_and_weight(product: IntegerProduct) -> tuple[ConvSite, np.ndarray] | None:
    """Return what is computed and the weights, (o, kh, kw, c / groups) int64, zero at 0."""
    weight, call = _weight(product.weight), product.call
    shape = ir.static_shape(product.data.codes)
    if weight is None:
        return None
    if ir.is_call_to(call, "relax.matmul"):
        if weight.ndim != 2:
            return None
        k, n = weight.shape
        site = ConvSite(
            batch=1, height=1, width=prod(shape[:-1]), channels=k, out_channels=n, kernel=(1, 1)
        )
        return site, np.ascontiguousarray(weight.T).reshape(n, 1, 1, k)
    ordered = as_ohwi(weight, call.attrs.kernel_layout)
    if ordered is None or (call.attrs.data_layout, call.attrs.out_layout) != ("NHWC", "NHWC"):
        return None
    return conv_site(call, shape, ordered), ordered


def _weight(weight: Centred) -> np.ndarray | None:
    """Return constant integers less their zero point, int64, or None."""
    codes = ir.constant(weight.codes)
    zero = np.zeros(()) if weight.zero is None else ir.constant(weight.zero)
    if codes is None or zero is None:
        return None
    centred: np.ndarray = codes.astype(np.int64) - zero.astype(np.int64)
    return centred if np.abs(centred).max() <= LARGEST else None


def _with_zero_point(conv: ConvSite, weight: np.ndarray, data: Centred) -> QConvSite | None:
    """Return the site; None where no kernel knows such a zero point.

    Padding has to hold the zero point, so there it must be a value that the activations may have.
    """
    dtype, largest = ir.dtype(data.codes), largest_of(weight)
    site = QConvSite(conv=conv, dtype=dtype, zero_point=0, largest=largest)
    if data.zero is None:
        return site
    if prod(ir.static_shape(data.zero)) != 1:
        return None
    known, limits = ir.constant(data.zero), np.iinfo(dtype)
    if known is not None and limits.min <= int(known.reshape(())) <= limits.max:
        return replace(site, zero_point=int(known.reshape(())))
    if any(conv.pads) and ir.dtype(data.zero) != dtype:
        return None
    return replace(site, zero_dtype=ir.dtype(data.zero))


def _types(site: QConvSite) -> str:
    return f"{TYPES[site.dtype]}_qc{weight_bits(site.largest)}w"


def _any(task: _Task) -> KernelCall:
    """Return the best kernel of all for a zero point that is known."""
    none = np.zeros(task.site.conv.out_channels, np.int64)
    chosen = choose_kernel(task.site, task.weight, none, task.kernels)
    return KernelCall(kernel=chosen.kernel, args=(task.data.codes, *chosen.packed, *task.operands))


def _direct(task: _Task) -> KernelCall:
    """Return the kernel that reads the zero point."""
    site, weight, kernels = task.site, task.weight, task.kernels
    how, packed = best(site, weight, np.zeros(len(weight), np.int64), kernels.target)
    cycles = qconv.cycles(site, how, kernels.target)
    kind = f"{how.dot.key}_{'gemm' if site.conv.pointwise else 'conv'}"
    kernel = kernels.get(qconv.qconv, kind, site, how, cycles, _types(site))
    sums = qconv.pack_bias(weight.sum((1, 2, 3)), np.zeros_like(weight), site, how)
    assert task.data.zero is not None, "without a zero point it is known to be 0"
    zeros = (task.data.zero, sums)
    return KernelCall(kernel=kernel, args=(task.data.codes, *packed, *zeros, *task.operands))


def _depthwise(task: _Task) -> KernelCall | None:
    """Return the kernel of a depthwise convolution whose sums float32 holds; None for others."""
    site, target = task.site, task.kernels.target
    conv = replace(
        site.conv, dtype=site.dtype, zero_point=site.zero_point, zero_dtype=site.zero_dtype
    )
    if not depthwise.applies(conv):
        return None
    parts = split_bias(conv, task.weight, np.zeros(conv.out_channels, np.int64))
    if parts is None:
        return None
    how = depthwise.config(conv, target)
    cycles = depthwise.cycles(conv, how, target)
    kernel = task.kernels.get(depthwise.depthwise, "dwconv", conv, how, cycles, _types(site))
    first = pack_start(conv, task.weight, parts[0])
    packed: Args = depthwise.pack(task.weight, how).astype(np.float32), first
    if site.zero_dtype is not None:
        assert task.data.zero is not None, "its type is known"
        packed = (*packed, task.data.zero)
    return KernelCall(kernel=kernel, args=(task.data.codes, *packed, *task.operands))
