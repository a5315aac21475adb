"""A Relax function as lowering reads it: bindings by number, and who uses what."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import tvm
from tvm import relax

from tvmopt import ir


@dataclass(frozen=True, slots=True)
class Node:
    """One binding.

    Attributes:
        index: Place in the function, from 0.
        var: What is bound.
        value: What it is bound to.
    """

    index: int
    var: relax.Var
    value: relax.Expr


@dataclass(slots=True)
class Graph:
    """The bindings of one function, in order.

    Attributes:
        nodes: All bindings.
        makers: The binding of each variable.
        users: The bindings that read each variable.
        kept: Variables that the function returns.
    """

    nodes: list[Node]
    makers: dict[relax.Var, Node] = field(default_factory=dict)
    users: dict[relax.Var, list[Node]] = field(default_factory=dict)
    kept: set[relax.Var] = field(default_factory=set)

    @classmethod
    def of(cls, func: relax.Function) -> Graph:
        """Return the graph of ``func``."""
        graph = cls([Node(i, var, value) for i, (var, value) in enumerate(ir.bindings(func))])
        for node in graph.nodes:
            graph.makers[node.var] = node
            for var in _variables(node.value):
                graph.users.setdefault(var, []).append(node)
        graph.kept = set(_variables(func.body.body))
        return graph

    def maker(self, expr: relax.Expr) -> Node | None:
        """Return the binding of a variable; None for a parameter or a constant."""
        return self.makers.get(expr) if isinstance(expr, relax.Var) else None

    def definition(self, expr: relax.Expr) -> relax.Expr:
        """Return what a variable is bound to; anything else is its own definition."""
        maker = self.maker(expr)
        return expr if maker is None else maker.value

    def source(self, expr: relax.Expr) -> relax.Var | None:
        """Return the variable that a chain of aliases begins with; None if it is no variable."""
        if not isinstance(expr, relax.Var):
            return None
        maker = self.makers.get(expr)
        if maker is not None and isinstance(maker.value, relax.Var):
            return self.source(maker.value)
        return expr

    def only_user(self, var: relax.Var) -> Node | None:
        """Return the one binding that reads ``var``; None if there are more or it is returned."""
        users = self.users.get(var, [])
        return users[0] if len(users) == 1 and var not in self.kept else None

    def born(self, expr: relax.Expr) -> int:
        """Return after which binding a value exists; -1 for parameters and constants."""
        maker = self.maker(expr)
        return -1 if maker is None else maker.index


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelCall:
    """A call of a generated kernel that stands for some bindings.

    Attributes:
        kernel: The PrimFunc.
        args: Its inputs: expressions of the old function, or arrays made at compile time.
    """

    kernel: tvm.tirx.PrimFunc
    args: tuple[relax.Expr | np.ndarray, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Replacement:
    """Bindings that one kernel computes.

    Attributes:
        site: What was matched, for the report.
        call: The kernel's call.
        covered: Numbers of the bindings that it stands for.
        result: The binding whose value the kernel gives.
        layer: The layer's name: that of the operator that gave the site its name.
        note: Why this kernel and not another; empty where there was no choice.
        more: The bindings whose values are the kernel's further outputs, in order.
    """

    site: str
    call: KernelCall
    covered: frozenset[int]
    result: Node
    layer: str
    note: str = ""
    more: tuple[Node, ...] = ()

    @property
    def place(self) -> int:
        """The binding where the call stands: that of the first result that others may read."""
        return min(node.index for node in (self.result, *self.more))

    @property
    def reason(self) -> str:
        """The kernel, and why it was chosen."""
        kernel = str(self.call.kernel.attrs["tvmopt.kernel"])
        return f"{kernel}: {self.note}" if self.note else kernel


def _variables(expr: relax.Expr) -> list[relax.Var]:
    found: list[relax.Var] = []
    relax.analysis.post_order_visit(
        expr, lambda e: found.append(e) if isinstance(e, relax.Var) else None
    )
    return list(dict.fromkeys(found))
