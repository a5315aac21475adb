"""A layer norm together with the additions before it that no other kernel does.

Before::

    s = x + y                     one pass over memory, unless a product's kernel adds y on its way
    n = layer_norm(s)             three more

After::

    n, s = add_layer_norm(x, y)   row by row, in level 1; s only where something else reads it

Source: none; derived here.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import relax, te, tirx, topi

from tvmopt import ir
from tvmopt.kernels.vector import isa
from tvmopt.lowering.graph import Graph, KernelCall, Node, Replacement
from tvmopt.lowering.kernel_cache import KernelCache
from tvmopt.lowering.legalize import normalize
from tvmopt.schedule.rest import schedule
from tvmopt.targets.description import CpuTarget


@dataclass(frozen=True, slots=True)
class _Sum:
    """Additions one after another.

    Attributes:
        nodes: Their bindings.
        terms: What is added up, in order.
        norm: The layer norm of the last sum.
    """

    nodes: tuple[Node, ...]
    terms: tuple[relax.Expr, ...]
    norm: Node


def match_residual_norm(
    graph: Graph, node: Node, taken: set[int], kernels: KernelCache
) -> Replacement | None:
    """Return the kernel for additions and the layer norm of their sum, or None."""
    found = _additions(graph, node, taken)
    if found is None:
        return None
    last, norm = found.nodes[-1], found.norm
    kept = last.var in graph.kept or graph.only_user(last.var) is None
    place = last.index if kept else norm.index
    args = (*found.terms, *norm.value.args[1:])
    if any(graph.born(arg) >= place for arg in args):
        return None
    shapes = [ir.static_shape(arg) for arg in args]
    kernel = residual_norm(shapes, norm.value.attrs, kept=kept, target=kernels.target)
    return Replacement(
        site=f"sum of {len(found.terms)} and layer norm {ir.static_shape(norm.var)}",
        call=KernelCall(kernel=kernel, args=args),
        covered=frozenset(n.index for n in (*found.nodes, norm)),
        result=norm,
        layer=norm.var.name,
        more=(last,) if kept else (),
    )


def residual_norm(
    shapes: list[tuple[int, ...]],
    attrs: relax.op.op_attrs.LayerNormAttrs,
    *,
    kept: bool,
    target: CpuTarget,
) -> tirx.PrimFunc:
    """Return the kernel ``(*terms, gamma, beta, norm)``, or with the sum behind the norm.

    Args:
        shapes: Of the terms, at least two, and of gamma and beta.
        attrs: Of the layer norm.
        kept: Whether the sum is an output too.
        target: The machine.
    """
    # Relax counts in 64 bits, and so does the schedule.
    wide = [[tirx.IntImm("int64", extent) for extent in shape] for shape in shapes]
    inputs = [te.placeholder(shape, "float32", name=f"x{i}") for i, shape in enumerate(wide)]
    *terms, gamma, beta = inputs
    total = terms[0]
    for term in terms[1:]:
        total = topi.add(total, term)
    outputs = [normalize(total, gamma, beta, attrs), *([total] if kept else [])]
    func = te.create_prim_func([*inputs, *outputs]).without_attr("global_symbol")
    adds = "_".join(["add"] * (len(terms) - 1))
    return schedule(func, target).with_attr(
        "tvmopt.kernel", f"f32_{adds}_layer_norm__{isa(target)}"
    )


def _additions(graph: Graph, node: Node, taken: set[int]) -> _Sum | None:
    """Return the additions from ``node`` on that end in a layer norm."""
    nodes, terms = [node], list[relax.Expr]()
    while True:
        value, last = nodes[-1].value, nodes[-1]
        if not ir.is_call_to(value, "relax.add") or ir.dtype(last.var) != "float32":
            return None
        before = nodes[-2].var if len(nodes) > 1 else None
        terms += [arg for arg in value.args if before is None or not arg.same_as(before)]
        if last.index in taken or len(terms) != len(nodes) + 1:
            return None  # the last sum and itself, for one
        norm = _norm_of(graph, last, taken)
        if norm is not None:
            return _Sum(tuple(nodes), tuple(terms), norm)
        following = graph.only_user(last.var)
        if following is None or not isinstance(following.var.ty, relax.TensorType):
            return None  # a tuple of results, for one
        if ir.shape(following.var) != ir.shape(node.var):
            return None
        nodes.append(following)


def _norm_of(graph: Graph, node: Node, taken: set[int]) -> Node | None:
    """Return the one layer norm of a value, if there is one and it is free."""
    norms = [
        user
        for user in graph.users.get(node.var, [])
        if ir.is_call_to(user.value, "relax.nn.layer_norm")
        and user.value.args[0].same_as(node.var)
        and user.index not in taken
    ]
    return norms[0] if len(norms) == 1 else None
