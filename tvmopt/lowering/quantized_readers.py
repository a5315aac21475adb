"""Give each reader of a quantized tensor a dequantize of its own.

Before::

    x = dequantize(q, s, z);  m = mean(x);  y = multiply(x, gate)

After::

    x1 = dequantize(q, s, z);  m = mean(x1);  x2 = dequantize(q, s, z);  y = multiply(x2, gate)

Each then belongs to the kernel of what reads it, and the float tensor is never stored.

Source: none; derived here.
"""

from __future__ import annotations

import tvm
from tvm import relax

from tvmopt import forms, ir
from tvmopt.lowering.graph import Graph


def split_readers(mod: tvm.IRModule) -> tvm.IRModule:
    """Return ``mod`` with every dequantize of a variable read by one binding at most.

    A dequantize that the function returns stays as well.
    """
    func = mod["main"]
    graph = Graph.of(func)
    shared = {node.var: node.value for node in graph.nodes if _is_shared(graph, node.var)}
    if not shared:
        return mod
    builder, names = relax.BlockBuilder(), {var: var for var in func.params}
    with builder.function("main", list(func.params)):
        with builder.dataflow():
            for node in graph.nodes:
                own = dict(names)
                for var in shared:
                    if node in graph.users.get(var, []):
                        copy = ir.substitute(shared[var], names)
                        own[var] = builder.emit(copy, name_hint=var.name)
                value = ir.substitute(node.value, own)
                names[node.var] = builder.emit(value, name_hint=node.var.name)
            output = builder.emit_output(ir.substitute(func.body.body, names))
        builder.emit_func_output(output)
    result = builder.get()
    main = result["main"].with_attrs(dict(func.attrs)) if func.attrs else result["main"]
    return tvm.IRModule({**dict(mod.functions_items()), mod.get_global_var("main"): main})


def _is_shared(graph: Graph, var: relax.Var) -> bool:
    found = forms.match_dequantize(graph.definition(var))
    return (
        found is not None and isinstance(found[0], relax.Var) and len(graph.users.get(var, [])) > 1
    )
