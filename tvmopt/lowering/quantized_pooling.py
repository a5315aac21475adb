"""Means over windows and over whole images of quantized tensors."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
from tvm import relax

from tvmopt import forms, ir
from tvmopt.forms import Affine
from tvmopt.kernels.pool import PoolSite
from tvmopt.kernels.quantized_mean import QuantizedMeanSite, cycles, factors, quantized_mean
from tvmopt.lowering.elementwise import match_tail
from tvmopt.lowering.graph import Graph, KernelCall, Node, Replacement
from tvmopt.lowering.kernel_cache import KernelCache
from tvmopt.lowering.pooling import is_global_mean, pool_site
from tvmopt.lowering.quantized_choice import TYPES
from tvmopt.lowering.requantize import commutes, integer_epilogue


def match_quantized_mean(
    graph: Graph, node: Node, taken: set[int], kernels: KernelCache
) -> Replacement | None:
    """Return the kernel for a mean of a quantized tensor, or None.

    Each mean is an exact sum, times one factor: that of the whole run of operators behind it where
    they commute with it, and the input's scale otherwise.
    """
    windows = _windows(node)
    if windows is None or not isinstance(node.value, relax.Call):
        return None
    found = forms.match_dequantize(graph.definition(node.value.args[0]))
    if found is None or found[1].scale.ndim or found[1].dtype not in TYPES:
        return None
    data, how = found
    tail = match_tail(graph, node, taken)
    output = tail.program.output
    folded = output is not None and commutes(tail.program)
    unit = output.scale if output is not None and folded else np.ones(())
    scale = float(np.float64(how.scale) / np.float64(unit))
    epilogue, inputs = integer_epilogue(tail.program, unit.astype(np.float64), scale * _reach(how))
    site = QuantizedMeanSite(
        windows=replace(windows, dtype=how.dtype),
        zero_point=int(how.zero_point),
        epilogue=epilogue,
    )
    whole = windows.out_size == (1, 1) and not any(windows.pads)
    name = "gavgpool" if whole else "avgpool"
    predicted = cycles(site, kernels.target)
    kernel = kernels.get(
        quantized_mean, name, site, kernels.target, predicted, types=TYPES[how.dtype]
    )
    table = factors(site, scale)
    return Replacement(
        site=f"{'global mean' if whole else 'meanpool'} {windows.input_shape}",
        call=KernelCall(kernel=kernel, args=(data, table, *(read.value for read in inputs))),
        covered=tail.covered,
        result=tail.result,
        layer=node.var.name,
    )


def _reach(how: Affine) -> int:
    """Return the largest magnitude of an integer less the zero point."""
    return max(how.high - int(how.zero_point), int(how.zero_point) - how.low)


def _windows(node: Node) -> PoolSite | None:
    """Return the windows of a mean; those of a global one are the images."""
    site = pool_site(node)
    if site is not None:
        return site if site.kind == "mean" else None
    if not is_global_mean(node.value):
        return None
    batch, *pixels, channels = ir.static_shape(node.value.args[0])
    return PoolSite(
        kind="mean",
        batch=batch,
        height=1,
        width=prod(pixels),
        channels=channels,
        kernel=(1, prod(pixels)),
        strides=(1, 1),
        pads=(0, 0, 0, 0),
        out_size=(1, 1),
    )
