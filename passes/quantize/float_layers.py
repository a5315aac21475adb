"""Let some layers of a quantized graph compute in floats again.

Before::

    xd = dequantize(quantize(x));  y = conv2d | matmul(xd, dequantize(codes))
    z  = add(y, dequantize(bias codes))

After::

    y = conv2d | matmul(x, weight);  z = add(y, bias)       the weight and bias of the floats

What the layers that are left would not have had quantized (``integer_flow``), such as a residual
stream that no longer feeds them, is read in floats by all; the rest stays quantized as it is.

Source: none; derived here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from tvmopt import forms, ir
from tvmopt.passes.canonicalize.rebuild import Rebuild, Rule, rebuild_main, variables
from tvmopt.passes.quantize import operators
from tvmopt.passes.quantize.integer_flow import find_flow
from tvmopt.passes.quantize.layers import find_layers
from tvmopt.passes.quantize.weight_layers import Reader, WeightLayer


def in_floats(
    mod: tvm.IRModule, reference: tvm.IRModule, layers: Sequence[WeightLayer]
) -> tvm.IRModule:
    """Return the module with some of its layers computed as in the graph of floats.

    Args:
        mod: A quantized module with distinct names.
        reference: The module before, with distinct names.
        layers: Of both.
    """
    operators_of = {layer.var: layer for layer in layers}
    sums = {layer.bias.var: layer for layer in layers if layer.bias is not None}
    freed = _freed(Reader(mod), reference, {layer.name for layer in layers})

    def make_rule(graph: Rebuild) -> Rule:
        def rule(var: relax.Var, value: relax.Expr) -> relax.Expr:
            if var in freed.tensors:
                return floats_of(graph, value)
            if var in operators_of:
                weight = relax.const(operators_of[var].weight)
                return ir.with_changes(value, [floats_of(graph, value.args[0]), weight])
            if var in freed.reads:
                now = {read: graph.now(read) for read in variables(graph.old[var])}
                now |= {read: floats_of(graph, now[read]) for read in freed.reads[var]}
                value = ir.substitute(graph.old[var], now)
            return _sum(sums[var], value) if var in sums else value

        return rule

    return rebuild_main(mod, make_rule)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Freed:
    """What need not be read in integers any more, of the quantized graph.

    Attributes:
        tensors: The results of dequantize that nobody needs.
        reads: The others that some variables need not read, by these.
    """

    tensors: frozenset[relax.Var]
    reads: dict[relax.Var, list[relax.Var]]


def _freed(graph: Reader, reference: tvm.IRModule, floats: Collection[str]) -> _Freed:
    """Return what is freed where layers of these names compute in floats."""
    before = Rebuild(reference["main"], relax.BlockBuilder())
    remain = {
        var.name
        for var, value in graph.values.items()
        if var.name not in floats and forms.match_product(value, graph.define) is not None
    }
    found = find_layers(reference["main"])
    flow = find_flow(before, {v: layer for v, layer in found.items() if v.name in remain})
    plain = {user.name: {read.name for read in reads} for user, reads in flow.plain.items()}
    # What was quantized before, by whomever, is as it was.
    needed = {var.name for var in flow.ranges} | {
        value.args[0].name
        for value in before.old.values()
        if forms.match_quantize(value) is not None and isinstance(value.args[0], relax.Var)
    }
    tensors, made_of = set[relax.Var](), dict[relax.Var, set[str]]()
    for var, value in graph.values.items():
        if forms.match_dequantize(value) is None:
            continue
        moved = list(_behind(graph, value.args[0]))
        made_of[var] = {source.name for _, source in moved}
        if any(not _is_needed(one, needed, plain) for one in moved):
            tensors.add(var)
    reads = {
        user: [v for v in variables(value) if made_of.get(v, set()) & plain[user.name]]
        for user, value in graph.values.items()
        if user.name in plain
    }
    return _Freed(tensors=frozenset(tensors), reads=reads)


def _is_needed(
    moved: tuple[relax.Var | None, relax.Var],
    needed: Collection[str],
    plain: Mapping[str, Collection[str]],
) -> bool:
    """Say whether the integers of a tensor are needed, and by what moves them first."""
    first, source = moved
    return source.name in needed and (first is None or source.name not in plain.get(first.name, ()))


def _behind(
    graph: Reader, codes: relax.Expr, reader: relax.Var | None = None
) -> Iterator[tuple[relax.Var | None, relax.Var]]:
    """Yield the floats that integers were made of, each behind what first moves its integers."""
    value = graph.define(codes)
    made = forms.match_quantize(value)
    if made is None:
        moving = codes if isinstance(codes, relax.Var) else reader
        for operand in operators.operands(value):
            yield from _behind(graph, operand, moving)
    elif isinstance(made[0], relax.Var):
        yield reader, made[0]


def floats_of(graph: Rebuild, expr: relax.Expr) -> relax.Expr:
    """Return a tensor as it was before it was quantized; as it is where nothing holds that.

    Args:
        graph: While it is being rebuilt.
        expr: A new variable, or what one is to be bound to.
    """
    rows = forms.match_rows(expr, graph.definition)
    if rows is not None:
        return rows.x
    found = forms.match_dequantize(graph.definition(expr))
    floats = None if found is None else _source(graph, found[0])
    return expr if floats is None else floats


def _source(graph: Rebuild, codes: relax.Expr) -> relax.Expr | None:
    """Return the floats that integers were made of; what moved the integers moves the floats."""
    value = graph.definition(codes)
    made = forms.match_quantize(value)
    if made is not None:
        return made[0]
    if isinstance(value, relax.TupleGetItem):
        whole = _source(graph, value.tuple_value)
        return None if whole is None else graph.emit(relax.TupleGetItem(whole, value.index), "part")
    if ir.is_call_to(value, "relax.concat"):
        parts = [_source(graph, field) for field in value.args[0].fields]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        return graph.emit(relax.Call(value.op, [relax.Tuple(known)], value.attrs), "concat")
    if not isinstance(value, relax.Call) or not _moves(value):
        return None
    moved = _source(graph, value.args[0])
    changes = {"pad_value": 0.0} if ir.is_call_to(value, "relax.nn.pad") else {}
    if moved is None:
        return None
    return graph.emit(ir.with_changes(value, [moved, *value.args[1:]], **changes), "moved")


def _moves(call: relax.Call) -> bool:
    """Say whether integers are moved; what fills up stands for 0, whatever integer it is."""
    return ir.is_call_to(call, "relax.nn.pad") or operators.is_move(call)


def _sum(layer: WeightLayer, total: relax.Call) -> relax.Call:
    assert layer.bias is not None
    assert layer.reference_bias is not None
    bias = relax.const(layer.reference_bias.astype(np.float32).reshape(layer.bias.shape))
    places = range(len(total.args))
    args = [bias if place == layer.bias.place else total.args[place] for place in places]
    return ir.with_changes(total, args)
