"""Let some layers of a quantized graph compute in floats again.

Before::

    xd = dequantize(quantize(x));  y = conv2d | matmul(xd, dequantize(codes))
    z  = add(y, dequantize(bias codes))

After::

    y = conv2d | matmul(x, weight);  z = add(y, bias)       the weight and bias of the floats

What other layers read in integers stays so for all; else what reads xd reads x again.

Source: none; derived here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import tvm
from tvm import relax

from tvmopt import forms, ir
from tvmopt.passes.canonicalize.rebuild import Rebuild, Rule, rebuild_main
from tvmopt.passes.quantize import operators
from tvmopt.passes.quantize.weight_layers import Reader, WeightLayer


def in_floats(mod: tvm.IRModule, layers: Sequence[WeightLayer]) -> tvm.IRModule:
    """Return the module with some of its layers computed as in the graph of floats.

    Args:
        mod: A quantized module.
        layers: Of that module.
    """
    operators_of = {layer.var: layer for layer in layers}
    sums = {layer.bias.var: layer for layer in layers if layer.bias is not None}
    alone = set(_read_by_no_other(Reader(mod), layers))

    def make_rule(graph: Rebuild) -> Rule:
        def rule(var: relax.Var, value: relax.Expr) -> relax.Expr:
            if var in alone:
                return floats_of(graph, value)
            if var in operators_of:
                weight = relax.const(operators_of[var].weight)
                return ir.with_changes(value, [floats_of(graph, value.args[0]), weight])
            return _sum(sums[var], value) if var in sums else value

        return rule

    return rebuild_main(mod, make_rule)


def _read_by_no_other(graph: Reader, layers: Sequence[WeightLayer]) -> Iterator[relax.Var]:
    """Yield what these layers read and no other layer reads in integers."""
    own = {layer.var for layer in layers}
    for layer in layers:
        users = (user for user in graph.users[layer.data] if user not in own)
        if all(forms.match_product(graph.values[user], graph.define) is None for user in users):
            yield layer.data


def floats_of(graph: Rebuild, expr: relax.Expr) -> relax.Expr:
    """Return a tensor as it was before it was quantized; as it is where nothing holds that.

    Args:
        graph: While it is being rebuilt.
        expr: A new variable, or what one is to be bound to.
    """
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
