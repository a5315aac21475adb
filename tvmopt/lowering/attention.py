"""Attention: two products of activations with a softmax between them."""

from __future__ import annotations

from tvm import relax

from tvmopt import ir
from tvmopt.kernels import attention
from tvmopt.kernels.attention import AttentionSite
from tvmopt.kernels.epilogue import STORE, Operand
from tvmopt.lowering.elementwise import Tail, match_tail
from tvmopt.lowering.graph import Graph, KernelCall, Node, Replacement
from tvmopt.lowering.kernel_cache import KernelCache
from tvmopt.lowering.matrix_views import operand_view, output_view


def match_attention(
    graph: Graph, node: Node, taken: set[int], kernels: KernelCache
) -> Replacement | None:
    """Return the kernel for softmax(epilogue(q @ k)) @ v of float activations, or None."""
    call = node.value
    if not ir.is_call_to(call, "relax.matmul") or ir.dtype(node.var) != "float32":
        return None
    tail = match_tail(graph, node, taken, planes=True, quantize=False)
    if Operand.TENSOR in tail.epilogue.operands:
        return None  # scores are written to lines of their own, not where such an operand lies
    softmax, product = _rest(graph, tail)
    if softmax is None or product is None:
        return None
    scores, (q, k), v = ir.static_shape(node.var), call.args, product.value.args[1]
    batch, shapes = scores[:-2], [ir.static_shape(arg) for arg in (q, k, v)]
    if min(map(len, shapes)) < 2 or ir.static_shape(product.var)[:-2] != batch:
        return None
    q_from, q_view, q_nodes = operand_view(graph, q, batch, taken)
    k_from, k_view, k_nodes = operand_view(graph, k, batch, taken)
    v_from, v_view, v_nodes = operand_view(graph, v, batch, taken)
    if v_view.column != 1:
        return None
    result, output = output_view(graph, product, STORE, taken)
    site = AttentionSite(
        batch=batch,
        s=scores[-2],
        t=scores[-1],
        d=shapes[0][-1],
        e=shapes[2][-1],
        q=q_view,
        k=k_view,
        v=v_view,
        output=output,
        epilogue=tail.epilogue,
    )
    how = attention.config(site, kernels.target)
    cycles = attention.cycles(site, how, kernels.target)
    kernel = kernels.get(attention.attention, "attention", site, how, cycles)
    own = {softmax.index, product.index, result.index}
    return Replacement(
        site=f"attention {batch} x ({site.s} x {site.t}), heads of {site.d}",
        call=KernelCall(kernel=kernel, args=(q_from, k_from, v_from, *tail.operands)),
        covered=tail.covered | q_nodes | k_nodes | v_nodes | own,
        result=result,
        layer=node.var.name,
    )


def _rest(graph: Graph, tail: Tail) -> tuple[Node | None, Node | None]:
    """Return the softmax over the scores' last axis and the product that alone reads it."""
    softmax = graph.only_user(tail.result.var)
    if softmax is None or not ir.is_call_to(softmax.value, "relax.nn.softmax"):
        return None, None
    last = len(ir.static_shape(softmax.var)) - 1
    product = graph.only_user(softmax.var)
    if int(softmax.value.attrs.axis) not in (-1, last) or product is None:
        return None, None
    if not ir.is_call_to(product.value, "relax.matmul"):
        return None, None
    left: relax.Expr = product.value.args[0]
    return softmax, product if left.same_as(softmax.var) else None
