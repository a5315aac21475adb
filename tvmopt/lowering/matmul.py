"""Matrix products: with a constant right side, and of two activations."""

from __future__ import annotations

from math import prod

import numpy as np

from tvmopt import ir
from tvmopt.kernels import batch_matmul, gemm
from tvmopt.kernels.batch_matmul import BatchMatmulSite
from tvmopt.kernels.conv_site import ConvSite
from tvmopt.lowering.elementwise import match_tail
from tvmopt.lowering.graph import Graph, KernelCall, Node, Replacement
from tvmopt.lowering.kernel_cache import KernelCache
from tvmopt.lowering.matrix_views import operand_view, output_view
from tvmopt.lowering.sparse_choice import choose_sparse


def match_linear(
    graph: Graph, node: Node, taken: set[int], kernels: KernelCache
) -> Replacement | None:
    """Return the kernel for a float product with a constant matrix, or None."""
    call = node.value
    if not ir.is_call_to(call, "relax.matmul") or ir.dtype(node.var) != "float32":
        return None
    x, weight = call.args[0], ir.float_constant(call.args[1])
    shape = ir.static_shape(x)
    if weight is None or min(weight.ndim, len(shape)) < 2 or prod(weight.shape[:-2]) != 1:
        return None
    k, n = weight.shape[-2:]
    tail = match_tail(graph, node, taken)
    site = gemm.GemmSite(m=prod(shape[:-1]), k=k, n=n, epilogue=tail.epilogue)
    how = gemm.config(site, kernels.target)
    kernel = kernels.get(gemm.gemm, "gemm", site, how, gemm.cycles(site, how, kernels.target))
    matrix = weight.reshape(k, n)
    constants: tuple[np.ndarray, ...] = (gemm.pack(matrix, how.tile),)
    line = linear_site(site)
    sparse = choose_sparse(line, np.ascontiguousarray(matrix.T)[:, None, None], kernel, kernels)
    if sparse is not None:
        kernel, constants = sparse.kernel, sparse.packed
    return Replacement(
        site=f"linear {site.m}x{k} @ {k}x{n}",
        call=KernelCall(kernel=kernel, args=(x, *constants, *tail.operands)),
        covered=tail.covered,
        result=tail.result,
        layer=node.var.name,
        note="" if sparse is None else sparse.note,
    )


def linear_site(site: gemm.GemmSite) -> ConvSite:
    """Return a product as the convolution of one line of m pixels by 1x1."""
    return ConvSite(
        batch=1,
        height=1,
        width=site.m,
        channels=site.k,
        out_channels=site.n,
        kernel=(1, 1),
        epilogue=site.epilogue,
    )


def match_batch_matmul(
    graph: Graph, node: Node, taken: set[int], kernels: KernelCache
) -> Replacement | None:
    """Return the kernel for a float product of two activations, or None.

    A transpose that only feeds the product is read through its strides instead of being copied, and
    one that only takes its result is written through them.
    """
    call = node.value
    if not ir.is_call_to(call, "relax.matmul") or ir.dtype(node.var) != "float32":
        return None
    shapes = [ir.static_shape(arg) for arg in call.args]
    if min(map(len, shapes)) < 2:
        return None
    tail = match_tail(graph, node, taken, planes=True)
    *batch_axes, m, n = ir.static_shape(node.var)
    batch = tuple(batch_axes)
    left, left_view, left_nodes = operand_view(graph, call.args[0], batch, taken)
    right, right_view, right_nodes = operand_view(graph, call.args[1], batch, taken)
    result, output = output_view(graph, tail.result, tail.epilogue, taken)
    site = BatchMatmulSite(
        batch=batch,
        m=m,
        k=shapes[0][-1],
        n=n,
        left=left_view,
        right=right_view,
        output=output,
        epilogue=tail.epilogue,
    )
    kernel_call = KernelCall(
        kernel=kernels.get(
            batch_matmul.batch_matmul,
            "batch_matmul",
            site,
            kernels.target,
            batch_matmul.cycles(site, kernels.target),
        ),
        args=(left, right, *tail.operands),
    )
    return Replacement(
        site=f"matmul {shapes[0]} @ {shapes[1]}",
        call=kernel_call,
        covered=tail.covered | left_nodes | right_nodes | {result.index},
        result=result,
        layer=node.var.name,
    )
