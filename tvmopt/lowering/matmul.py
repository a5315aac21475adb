"""Matrix products: with a constant right side, and of two activations."""

from __future__ import annotations

from math import prod

from tvm import relax

from tvmopt import ir
from tvmopt.kernels import batch_matmul, gemm
from tvmopt.kernels.batch_matmul import BatchMatmulSite, View
from tvmopt.kernels.epilogue import Operand
from tvmopt.lowering.elementwise import Tail, match_tail
from tvmopt.lowering.graph import Graph, KernelCall, Node, Replacement
from tvmopt.lowering.kernel_cache import KernelCache


def match_linear(
    graph: Graph, node: Node, taken: set[int], kernels: KernelCache
) -> Replacement | None:
    """Return the kernel for a float product with a constant matrix, or None."""
    call = node.value
    if not ir.is_call_to(call, "relax.matmul") or ir.dtype(node.var) != "float32":
        return None
    x, weight = call.args[0], ir.float_constant(call.args[1])
    if weight is None or len(ir.shape(x)) < 2 or prod(weight.shape[:-2]) != 1:
        return None
    k, n = weight.shape[-2:]
    tail = match_tail(graph, node, taken)
    site = gemm.GemmSite(m=prod(ir.shape(x)[:-1]), k=k, n=n, epilogue=tail.epilogue)
    how = gemm.config(site, kernels.target)
    call = KernelCall(
        kernel=kernels.get(gemm.gemm, "gemm", site, how, gemm.cycles(site, how, kernels.target)),
        args=(x, gemm.pack(weight.reshape(k, n), how.tile), *tail.operands),
    )
    return Replacement(
        site=f"linear {site.m}x{k} @ {k}x{n}",
        call=call,
        covered=tail.covered,
        result=tail.result,
        layer=node.var.name,
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
    if any(len(ir.shape(arg)) < 2 for arg in call.args):
        return None
    tail = match_tail(graph, node, taken)
    batch, (m, n) = ir.shape(node.var)[:-2], ir.shape(node.var)[-2:]
    left, left_view, left_nodes = _operand(graph, call.args[0], batch)
    right, right_view, right_nodes = _operand(graph, call.args[1], batch)
    result, output = _output(graph, tail)
    site = BatchMatmulSite(
        batch=batch,
        m=m,
        k=ir.shape(call.args[0])[-1],
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
        site=f"matmul {ir.shape(call.args[0])} @ {ir.shape(call.args[1])}",
        call=kernel_call,
        covered=tail.covered | left_nodes | right_nodes | {result.index},
        result=result,
        layer=node.var.name,
    )


def _operand(
    graph: Graph, expr: relax.Expr, batch: tuple[int, ...]
) -> tuple[relax.Expr, View, frozenset[int]]:
    """Return what to read an operand from, how, and which transposes that makes needless."""
    maker = graph.maker(expr)
    if maker is not None and ir.is_call_to(maker.value, "relax.permute_dims"):
        source = maker.value.args[0]
        rank = len(ir.shape(source))
        axes = [int(a) for a in maker.value.attrs.axes or reversed(range(rank))]
        gone = frozenset({maker.index}) if graph.only_user(maker.var) else frozenset()
        return source, _view(ir.shape(source), axes, batch), gone
    return expr, _view(ir.shape(expr), range(len(ir.shape(expr))), batch), frozenset()


def _output(graph: Graph, tail: Tail) -> tuple[Node, View]:
    """Return the binding that the product gives, and how it lies in that tensor."""
    shape, rank = ir.shape(tail.result.var), len(ir.shape(tail.result.var))
    user = graph.only_user(tail.result.var)
    dense = View(prod(shape), tuple(_strides(shape)[:-2]), shape[-1], 1)
    if user is None or not ir.is_call_to(user.value, "relax.permute_dims"):
        return tail.result, dense
    axes = [int(a) for a in user.value.attrs.axes or reversed(range(rank))]
    if axes[-1] != rank - 1 or Operand.TENSOR in tail.epilogue.operands:
        return tail.result, dense
    there = _strides(ir.shape(user.var))
    strides = [there[axes.index(axis)] for axis in range(rank)]
    return user, View(prod(shape), tuple(strides[:-2]), strides[-2], 1)


def _strides(shape: tuple[int, ...]) -> list[int]:
    """Return the strides of a dense tensor, elements."""
    return [prod(shape[i + 1 :]) for i in range(len(shape))]


def _view(shape: tuple[int, ...], axes: list[int] | range, batch: tuple[int, ...]) -> View:
    """Return the view of a dense tensor of ``shape`` whose axes are permuted by ``axes``.

    Batch axes that the operand lacks, or has with extent 1, get stride 0: they are broadcast.
    """
    dense = _strides(shape)
    strides, extents = [dense[a] for a in axes], [shape[a] for a in axes]
    missing = len(batch) - (len(shape) - 2)
    outer = [0] * missing + [
        0 if extent == 1 else stride for stride, extent in zip(strides, extents, strict=True)
    ][:-2]
    return View(prod(shape), tuple(outer), strides[-2], strides[-1])
