"""Rebuild ``main`` binding by binding: the frame that every pass of this room hangs its rule in.

A *rule* is given one binding whose operands are rewritten already, and returns the value to bind
instead (or the very same value, to keep it). What it emits on its way comes before the binding;
what nobody reads afterwards is dropped. The names of the binding variables
stay, because the names of layers in reports and profiles come from them.

Source: none; it does what TVM's ``PyExprMutator`` does, with the two questions a peephole pass
asks most (what is this operand bound to, who else reads it) answered in constant time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import tvm
from tvm import relax

from tvmopt import ir

_PLAIN = (relax.Call, relax.Tuple, relax.TupleGetItem, relax.Var, tvm.ir.GenericConst)

Rule = Callable[[relax.Var, relax.Expr], relax.Expr]


class Rebuild:
    """``main`` while it is being rebuilt.

    Attributes:
        builder: Where new bindings go.
        old: The values of the variables of the function as it was.
        readers: How often each old variable is read, the function's result included.
        users: The old variables whose values read an old variable.
        result: The old variable that the function returns.
    """

    def __init__(self, func: relax.Function, builder: relax.BlockBuilder) -> None:
        self.builder = builder
        self.old: dict[relax.Var, relax.Expr] = dict(ir.bindings(func))
        self.result = func.body.body
        if not isinstance(self.result, relax.Var):
            self.result = relax.Var("result", func.body.body.ty)
            self.old[self.result] = func.body.body
        self.readers: Counter[relax.Var] = Counter([self.result])
        self.users: dict[relax.Var, list[relax.Var]] = {}
        for var, value in self.old.items():
            for read in variables(value):
                self.readers[read] += 1
                self.users.setdefault(read, []).append(var)
        self._env: dict[relax.Var, relax.Expr] = {p: p for p in func.params}
        self._new: dict[relax.Var, relax.Expr] = {}
        self._new_readers: Counter[relax.Var] = Counter(
            {p: self.readers[p] for p in func.params if self.readers[p]}
        )

    def emit(self, expr: relax.Expr, name: str) -> relax.Expr:
        """Bind ``expr`` before the binding at hand; a constant or a variable stays as it is."""
        if not isinstance(expr, relax.Call | relax.Tuple | relax.TupleGetItem):
            return expr
        var = self.builder.emit(expr, name)
        self._new[var] = expr
        self._new_readers[var] = 1
        return var

    def definition(self, expr: relax.Expr) -> relax.Expr:
        """Return the value a new variable is bound to; anything else is its own definition."""
        return self._new.get(expr, expr) if isinstance(expr, relax.Var) else expr

    def read_once(self, expr: relax.Expr) -> bool:
        """Say whether nobody but the binding at hand reads the new variable ``expr``."""
        return isinstance(expr, relax.Var) and self._new_readers[expr] <= 1

    def now(self, var: relax.Var) -> relax.Expr:
        """Return what the old variable ``var``, already rewritten, has become."""
        return self._env[var]

    def renew(self, expr: relax.Expr) -> relax.Expr:
        """Return ``expr`` with its old variables replaced by what they have become."""
        if isinstance(expr, relax.Var):
            return self._env.get(expr, expr)
        if isinstance(expr, relax.Tuple):
            fields = [self.renew(f) for f in expr.fields]
            return expr if _same(fields, expr.fields) else relax.Tuple(fields)
        if isinstance(expr, relax.TupleGetItem):
            whole = self.renew(expr.tuple_value)
            fields_of = self.definition(whole)
            if isinstance(fields_of, relax.Tuple):
                return fields_of.fields[expr.index]
            return (
                expr if whole.same_as(expr.tuple_value) else relax.TupleGetItem(whole, expr.index)
            )
        if isinstance(expr, relax.Call):
            args = [self.renew(a) for a in expr.args]
            return (
                expr
                if _same(args, expr.args)
                else relax.Call(expr.op, args, expr.attrs, expr.ty_args)
            )
        return expr

    def bind(self, var: relax.Var, value: relax.Expr) -> None:
        """Let the old variable ``var`` be ``value`` from here on."""
        new = self.emit(value, var.name)
        self._env[var] = new
        if isinstance(new, relax.Var):
            # An alias hands its readers over; the one read it made itself is gone.
            self._new_readers[new] += self.readers[var] - 1


def variables(expr: relax.Expr) -> Iterator[relax.Var]:
    """Yield the variables that the value of a binding reads; twice what it reads twice."""
    if isinstance(expr, relax.Var):
        yield expr
    elif isinstance(expr, relax.Tuple):
        for item in expr.fields:
            yield from variables(item)
    elif isinstance(expr, relax.TupleGetItem):
        yield from variables(expr.tuple_value)
    elif isinstance(expr, relax.Call):
        for arg in expr.args:
            yield from variables(arg)


def is_plain(func: relax.Function) -> bool:
    """Say whether ``func`` is a straight line of pure calls, which is all a rule understands."""
    return not relax.analysis.contains_impure_call(func) and all(
        isinstance(binding, relax.VarBinding) and isinstance(binding.value, _PLAIN)
        for block in func.body.blocks
        for binding in block.bindings
    )


def rebuild_main(mod: tvm.IRModule, make_rule: Callable[[Rebuild], Rule]) -> tvm.IRModule:
    """Return ``mod`` with a rule applied to each binding of ``main``, in order.

    Args:
        mod: A module; one whose ``main`` has control flow or side effects is returned as it is.
        make_rule: Looks at the graph as it was, and returns the rule: ``rule(var, value)`` is the
            value to bind to ``var`` instead of ``value``, whose operands are rewritten already.

    Returns:
        A new module whose ``main`` has the same parameters and attributes, no dead bindings, and
        one dataflow block. The other functions are the same objects.
    """
    func = mod["main"]
    if not is_plain(func):
        return mod
    others = {name: f for name, f in mod.functions_items() if name.name_hint != "main"}
    builder = relax.BlockBuilder(tvm.IRModule(others, attrs=mod.attrs))
    graph = Rebuild(func, builder)
    with builder.function("main", list(func.params), attrs=dict(func.attrs or {})):
        with builder.dataflow():
            result = _rebuild_body(graph, make_rule(graph))
        builder.emit_func_output(result)
    main = relax.analysis.remove_all_unused(builder.finalize()["main"])
    new = mod.clone()
    new.update_func(mod.get_global_var("main"), main)
    return new


def _rebuild_body(graph: Rebuild, rule: Rule) -> relax.Var:
    for var, value in graph.old.items():
        new = rule(var, graph.renew(value))
        if var.same_as(graph.result):
            return graph.builder.emit_output(new, var.name)
        graph.bind(var, new)
    return graph.builder.emit_output(graph.renew(graph.result))  # a parameter


def _same(new: list[relax.Expr], old: list[relax.Expr]) -> bool:
    return all(a.same_as(b) for a, b in zip(new, old, strict=True))
