"""What happens between one quantized tensor and the next without a product: tables and sums."""

from __future__ import annotations

from math import prod

import numpy as np
from tvm import relax

from tvmopt import forms, ir
from tvmopt.forms import Affine
from tvmopt.kernels import lookup
from tvmopt.kernels.lookup import LookupSite
from tvmopt.kernels.quantized_elementwise import (
    QuantizedElementwiseSite,
    cycles,
    quantized_elementwise,
)
from tvmopt.lowering.byte_table import byte_table
from tvmopt.lowering.elementwise import Tail, match_tail
from tvmopt.lowering.graph import Graph, KernelCall, Node, Replacement
from tvmopt.lowering.kernel_cache import KernelCache
from tvmopt.lowering.quantized_choice import TYPES
from tvmopt.lowering.requantize import integer_epilogue


def match_quantized_elementwise(
    graph: Graph, node: Node, taken: set[int], kernels: KernelCache
) -> Replacement | None:
    """Return the kernel for elementwise operators between quantized tensors, or None.

    The site begins with a dequantize of its own and ends with a quantize. A function of the one
    tensor is a table.
    """
    found = forms.match_dequantize(node.value)
    if found is None or not isinstance(found[0], relax.Var):
        return None
    data, how = found
    if how.scale.ndim or how.dtype not in TYPES:
        return None
    tail = match_tail(graph, node, taken, same=_copies(graph, data, how))
    if tail.program.output is None or tail.program.output.dtype not in TYPES:
        return None
    make = _elementwise if tail.program.inputs else _table
    shape = ir.static_shape(data)
    return Replacement(
        site=f"{_operators(graph, node, tail)} {shape}",
        call=make(data, how, tail, kernels),
        covered=tail.covered,
        result=tail.result,
        layer=graph.nodes[min(tail.covered - {node.index})].var.name,
    )


def _copies(graph: Graph, data: relax.Var, how: Affine) -> list[relax.Var]:
    """Return every variable that holds what ``data`` stands for."""
    found = ((user.var, forms.match_dequantize(user.value)) for user in graph.users[data])
    return [var for var, match in found if match is not None and match[1].same(how)]


def _operators(graph: Graph, node: Node, tail: Tail) -> str:
    """Return the operators that stand between dequantize and quantize, for reports."""
    between = sorted(tail.covered - {node.index, tail.result.index})
    names = [graph.nodes[index].value.op.name.split(".")[-1] for index in between]
    return "+".join(names) or "rescale"


def _table(data: relax.Expr, how: Affine, tail: Tail, kernels: KernelCache) -> KernelCall:
    assert tail.program.output is not None, "the caller has asked for one"
    site = LookupSite(
        size=prod(ir.static_shape(data)), read=how.dtype, stored=tail.program.output.dtype
    )
    config = lookup.config(site, kernels.target)
    predicted = lookup.cycles(site, config, kernels.target)
    kernel = kernels.get(lookup.lookup, "lut", site, config, predicted, types="x8")
    table = lookup.pack(byte_table(how, tail.program), config)
    return KernelCall(kernel=kernel, args=(data, table))


def _elementwise(data: relax.Expr, how: Affine, tail: Tail, kernels: KernelCache) -> KernelCall:
    zero = int(how.zero_point)
    limit = float(max(how.high - zero, zero - how.low))
    epilogue, inputs = integer_epilogue(tail.program, how.scale.astype(np.float64), limit)
    site = QuantizedElementwiseSite(
        shape=ir.static_shape(data), dtype=how.dtype, zero_point=zero, epilogue=epilogue
    )
    kernel = kernels.get(
        quantized_elementwise,
        "elementwise",
        site,
        kernels.target,
        cycles(site, kernels.target),
        types=TYPES[how.dtype],
    )
    return KernelCall(kernel=kernel, args=(data, *(read.value for read in inputs)))
