"""Depthwise convolutions of quantized tensors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tvmopt import forms
from tvmopt.kernels import depthwise
from tvmopt.kernels.depthwise_start import pack_start, split_bias
from tvmopt.kernels.epilogue import Epilogue, Operand, Step
from tvmopt.lowering.convolution import describe
from tvmopt.lowering.elementwise import match_tail
from tvmopt.lowering.graph import Graph, KernelCall, Node, Replacement
from tvmopt.lowering.kernel_cache import KernelCache
from tvmopt.lowering.quantized_choice import TYPES
from tvmopt.lowering.quantized_product import limit_of, site_and_weight, unit_of
from tvmopt.lowering.requantize import integer_epilogue, take_bias


def match_quantized_depthwise(
    graph: Graph, node: Node, taken: set[int], kernels: KernelCache
) -> Replacement | None:
    """Return the kernel for a depthwise convolution of quantized operands, or None.

    None also where sums could leave what float32 holds exactly, which takes some 500 taps: kernels
    that add up in int32 then have it.
    """
    product = forms.match_product(node.value, graph.definition)
    if product is None or product.codes is None or product.data_how.dtype not in TYPES:
        return None
    found = site_and_weight(product)
    if found is None or not depthwise.applies(found[0]):
        return None
    site, weight = found
    tail = match_tail(graph, node, taken)
    unit = unit_of(product)
    program, bias = take_bias(tail.program, unit.astype(np.float32), site.out_channels)
    epilogue, inputs = integer_epilogue(program, unit, limit_of(product, weight, bias))
    zero_point = int(product.data_how.zero_point)
    site = replace(site, epilogue=epilogue, dtype=product.data_how.dtype, zero_point=zero_point)
    parts = split_bias(site, weight, bias)
    if parts is None:
        return None
    start, added = parts
    tensors = [read.value for read in inputs]
    if added.any():
        site = replace(site, epilogue=_behind_a_sum(epilogue))
        tensors.append(added)
    how = depthwise.config(site, kernels.target)
    kernel = kernels.get(
        depthwise.depthwise,
        "dwconv",
        site,
        how,
        depthwise.cycles(site, how, kernels.target),
        types=f"{TYPES[site.dtype]}_qc8w",
    )
    first = pack_start(site, weight, start)
    packed = depthwise.pack(weight, how).astype(np.float32), first
    return Replacement(
        site=describe(site),
        call=KernelCall(
            kernel=kernel,
            args=(product.data, *packed, *tensors),
        ),
        covered=tail.covered,
        result=tail.result,
        layer=node.var.name,
    )


def _behind_a_sum(epilogue: Epilogue) -> Epilogue:
    """Return the program of the accumulator plus one more operand, the last, of each channel."""
    count = len(epilogue.operands)
    total = count + 2  # the value that follows the accumulator and one operand more

    def moved(arg: int | float) -> int | float:
        if isinstance(arg, float):
            return arg
        return total if arg == 0 else arg if arg <= count else arg + 2

    steps = tuple(Step(s.op, tuple(moved(arg) for arg in s.args)) for s in epilogue.steps)
    return replace(
        epilogue,
        operands=(*epilogue.operands, Operand.CHANNEL),
        dtypes=(*epilogue.dtypes, "float32"),
        steps=(Step("add", (0, count + 1)), *steps),
    )
