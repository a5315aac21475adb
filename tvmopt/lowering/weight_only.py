"""Products of floats with a constant in fewer bits: only the weights are small."""

from __future__ import annotations

from math import prod

import numpy as np
from tvm import relax, tirx

from tvmopt import forms, ir
from tvmopt.forms import Stored
from tvmopt.kernels import gemm, weight_gemm, weight_gemv
from tvmopt.kernels.tile import Tile
from tvmopt.kernels.weight_site import WeightSite
from tvmopt.lowering.elementwise import match_tail
from tvmopt.lowering.graph import Graph, KernelCall, Node, Replacement
from tvmopt.lowering.kernel_cache import KernelCache
from tvmopt.lowering.stored_weight import NO_CODE, code_of


def match_weight_only(
    graph: Graph, node: Node, taken: set[int], kernels: KernelCache
) -> Replacement | None:
    """Return the kernel for a float product with a constant matrix in fewer bits, or None."""
    found = stored_matrix(graph, node)
    if found is None:
        return None
    x, stored = found
    k, n = stored.shape
    tail = match_tail(graph, node, taken)
    coded = code_of(stored, kernels.target)
    m = prod(ir.static_shape(x)[:-1])
    note = ""
    if coded is None:
        plain = gemm.GemmSite(m=m, k=k, n=n, epilogue=tail.epilogue)
        how = gemm.config(plain, kernels.target)
        cycles = gemm.cycles(plain, how, kernels.target)
        kernel = kernels.get(gemm.gemm, "gemm", plain, how, cycles)
        packed: tuple[np.ndarray, ...] = (gemm.pack(stored.value(), how.tile),)
        note = NO_CODE
    else:
        site = WeightSite(m=m, k=k, n=n, code=coded.code, epilogue=tail.epilogue)
        kernel, tile = product_kernel(site, kernels)
        packed = coded.pack(site, tile)
    return Replacement(
        site=f"linear {m}x{k} @ {k}x{n}",
        call=KernelCall(kernel=kernel, args=(x, *packed, *tail.operands)),
        covered=tail.covered,
        result=tail.result,
        layer=node.var.name,
        note=note,
    )


def stored_matrix(graph: Graph, node: Node) -> tuple[relax.Expr, Stored] | None:
    """Return both sides of a float product with a constant matrix in fewer bits, (k, n), or None.

    A constant of more axes counts where all but the last two are 1.
    """
    call = node.value
    if not ir.is_call_to(call, "relax.matmul") or ir.dtype(node.var) != "float32":
        return None
    x, weight = call.args
    stored = forms.match_stored(weight, graph.definition)
    if stored is None or min(len(stored.shape), len(ir.static_shape(x))) < 2:
        return None
    if prod(stored.shape[:-2]) != 1:
        return None
    if len(stored.shape) > 2:
        stored = stored.reshaped(stored.shape[-2:])
    return None if stored is None else (x, stored)


def product_kernel(site: WeightSite, kernels: KernelCache) -> tuple[tirx.PrimFunc, Tile]:
    """Return the kernel of a product with coded weights, and its tile."""
    target, name = kernels.target, site.code.name
    if weight_gemv.applies(site):
        few = weight_gemv.config(site, target)
        cycles = weight_gemv.cycles(site, few, target)
        kernel = kernels.get(weight_gemv.weight_gemv, f"{name}_gemv", site, few, cycles)
        return kernel, few.tile
    many = weight_gemm.config(site, target)
    cycles = weight_gemm.cycles(site, many, target)
    kernel = kernels.get(weight_gemm.weight_gemm, f"{name}_gemm", site, many, cycles)
    return kernel, many.tile
