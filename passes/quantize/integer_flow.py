"""Decide which tensors of a graph are to be stored as integers, given the layers that compute so.

A tensor is quantized where it would be stored anyway: behind the elementwise operators, and the
addition of a residual, that belong to its layer's kernel. Between two layers integers are to flow
end to end: an operator that combines tensors is taken as well where all its operands can be
integers and a layer reads, in the end, what it computes. What one reader wants in integers all
others read through the dequantize, so that no tensor is stored twice. Only what an operator of
floats has computed, such as a layer norm, is read as it is by others of that kind: there the floats
cost little, and the residuals of a transformer would suffer.

A *cluster* is a tensor, its root, and what is computed of it alone, element by element. Its *neck*
is its last member through which everything that others read is computed; what the cluster stores is
the neck, and what is read of the members behind it.

Source: none; derived here. The rule that a residual is added by the later of two layers is that of
``tvmopt/lowering``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from tvm import relax

from tvmopt import forms, ir
from tvmopt.passes.canonicalize.rebuild import Rebuild
from tvmopt.passes.quantize import operators
from tvmopt.passes.quantize.byte_inputs import byte_meanings
from tvmopt.passes.quantize.layers import Layer


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class IntegerFlow:
    """What is stored as integers.

    Attributes:
        ranges: Each tensor that is to be quantized, to the tensor whose range its grid spans:
            itself, or what it is concatenated into. Variables of the old function.
        bytes: What is made of bytes whose integers are read as they are, and what they mean there.
        plain: What each variable reads as floats although its integers are stored.
    """

    ranges: dict[relax.Var, relax.Var]
    bytes: dict[relax.Var, forms.Affine]
    plain: dict[relax.Var, list[relax.Var]]


def find_flow(graph: Rebuild, layers: Mapping[relax.Var, Layer]) -> IntegerFlow:
    """Return which tensors are to be stored as integers.

    Args:
        graph: The function.
        layers: Those that are to compute with integers, by their variables.
    """
    meanings = byte_meanings(graph.old)
    clusters = _Clusters(graph, meanings)
    search = _Search(graph, layers, clusters)
    integers = search.integers()
    stored = [var for var in integers if not search.is_given(var)]
    ranges = {var: var for var in stored}
    for var in stored:
        if ir.is_call_to(graph.old.get(var), "relax.concat"):
            for operand in operators.operands(graph.old[var]):
                source = search.origin(operand, integers)
                if source in ranges and search.leads_only_to(source, var, integers):
                    ranges[source] = var
    return IntegerFlow(
        ranges={var: _last(var, ranges) for var in stored},
        bytes={var: how for var, how in meanings.items() if var in integers},
        plain=search.plain(stored, integers),
    )


def _last(var: relax.Var, ranges: Mapping[relax.Var, relax.Var]) -> relax.Var:
    while not ranges[var].same_as(var):
        var = ranges[var]
    return var


class _Clusters:
    """The clusters of a function.

    Attributes:
        root: Of each variable.
        members: Of each root, in order, itself included.
        place: Where each variable is bound; parameters come first.
    """

    def __init__(self, graph: Rebuild, meanings: Mapping[relax.Var, forms.Affine]) -> None:
        self.graph, self.meanings = graph, meanings
        self.root: dict[relax.Var, relax.Var] = {}
        self.members: dict[relax.Var, list[relax.Var]] = {}
        params = [var for var in graph.users if var not in graph.old]
        self.place = {var: place for place, var in enumerate([*params, *graph.old])}
        for var in self.place:
            root = self._root_of(var)
            self.root[var] = root
            self.members.setdefault(root, []).append(var)

    def _root_of(self, var: relax.Var) -> relax.Var:
        value = self.graph.old.get(var)
        if value is None or var in self.meanings or not operators.is_elementwise(value):
            return var
        read = [arg for arg in operators.operands(value) if isinstance(arg, relax.Var)]
        roots = {self.root[arg] for arg in read}
        same = operators.is_float(var) and all(ir.same_type(arg, var) for arg in read)
        return roots.pop() if len(roots) == 1 and same else var

    def exits(self, root: relax.Var) -> list[relax.Var]:
        """Return the members that something outside reads."""
        return [var for var in self.members[root] if self._is_exit(var)]

    def _is_exit(self, var: relax.Var) -> bool:
        outside = (self.root[user] != self.root[var] for user in self.graph.users.get(var, []))
        return var.same_as(self.graph.result) or any(outside)

    def neck(self, root: relax.Var) -> relax.Var:
        """Return the last member through which all exits go."""
        neck, needed = root, -1
        for var in self.members[root]:
            if needed <= self.place[var]:
                neck = var
            if self._is_exit(var):
                break
            readers = (self.place[user] for user in self.graph.users.get(var, []))
            needed = max(needed, *readers, -1)
        return neck


class _Search:
    def __init__(
        self, graph: Rebuild, layers: Mapping[relax.Var, Layer], clusters: _Clusters
    ) -> None:
        self.graph, self.layers, self.clusters = graph, layers, clusters
        self.absorbed: dict[relax.Var, relax.Var] = {}
        self.available: set[relax.Var] = set()
        for var, value in graph.old.items():
            if self._can_be_integers(var, value):
                self.available.add(var)
        self.necks = {root: self._neck(root) for root in clusters.members}
        for var in graph.old:
            self._absorb(var)

    def integers(self) -> dict[relax.Var, None]:
        """Return the tensors that are to be integers, in no particular order."""
        found: dict[relax.Var, None] = {}
        for var in reversed(self.clusters.place):
            if self._is_stored(var) and any(
                self._wants(user, var, found) for user in self.graph.users.get(var, [])
            ):
                found[var] = None
        return found

    def plain(
        self, stored: Iterable[relax.Var], integers: Mapping[relax.Var, None]
    ) -> dict[relax.Var, list[relax.Var]]:
        """Return what each variable is to read as floats although its integers are stored."""
        found: dict[relax.Var, list[relax.Var]] = {}
        for var in stored:
            if var in self.available:
                continue
            for user in self.graph.users.get(var, []):
                if not self._wants(user, var, integers):
                    found.setdefault(user, []).append(var)
        return found

    def is_given(self, var: relax.Var) -> bool:
        """Say whether a tensor's integers are those of what it is made of."""
        return self.is_move(var) or var in self.clusters.meanings

    def is_move(self, var: relax.Expr) -> bool:
        """Say whether a tensor, or the tensors of a tuple, are moved from one tensor."""
        value = self.graph.old.get(var) if isinstance(var, relax.Var) else None
        if isinstance(value, relax.TupleGetItem):
            return ir.is_call_to(self.graph.old.get(value.tuple_value), "relax.split")
        return value is not None and operators.is_move(value)

    def origin(self, expr: relax.Expr, integers: Mapping[relax.Var, None]) -> relax.Expr:
        """Return the tensor that moves of integers begin with."""
        while expr in integers and self.is_move(expr):
            expr = operators.operands(self.graph.old[expr])[0]
        return expr

    def leads_only_to(
        self, var: relax.Var, end: relax.Var, integers: Mapping[relax.Var, None]
    ) -> bool:
        """Say whether moves of integers lead from ``var`` to ``end``, and nothing else reads it."""
        users = self.graph.users.get(var, [])
        return not var.same_as(self.graph.result) and all(
            user == end
            or (user in integers and self.is_move(user) and self.leads_only_to(user, end, integers))
            for user in users
        )

    def _can_be_integers(self, var: relax.Var, value: relax.Expr) -> bool:
        """Say whether a tensor comes out of integers alone."""
        if var in self.layers or var in self.clusters.meanings:
            return True
        root = self.clusters.root[var]
        if root != var:
            return root in self.available
        read = operators.operands(value)
        if self.is_move(var):
            return read[0] in self.available
        tensors = [arg for arg in read if isinstance(arg, relax.Var)]
        return (
            operators.is_combining(value)
            and len(tensors) == len(read)
            and operators.is_float(var)
            and all(arg in self.available for arg in tensors)
        )

    def _neck(self, root: relax.Var) -> relax.Var:
        # No kernel could take along what follows a move or bytes: it is a table of its integers.
        if root in self.available and self.is_given(root):
            return root
        return self.clusters.neck(root)

    def _absorb(self, var: relax.Var) -> None:
        """Let the later of two layers whose results are added do the addition."""
        value = self.graph.old[var]
        if not ir.is_call_to(value, "relax.add") or self.clusters.root[var] != var:
            return
        made = [arg for arg in value.args if self._ends_layer(arg, var)]
        if made:
            self.absorbed[max(made, key=self.clusters.place.__getitem__)] = var

    def _ends_layer(self, arg: relax.Expr, reader: relax.Var) -> bool:
        """Say whether ``reader`` alone reads ``arg``, all that comes out of a layer's kernel."""
        if not isinstance(arg, relax.Var) or not ir.same_type(arg, reader):
            return False
        root = self.clusters.root[arg]
        return (
            ir.is_call_to(self.graph.old.get(root), "relax.nn.conv2d", "relax.matmul")
            and self.necks[root] == arg
            and self.clusters.exits(root) == [arg]
            and self.graph.readers[arg] == 1
        )

    def _is_stored(self, var: relax.Var) -> bool:
        if var in self.absorbed or not (operators.is_float(var) or self.is_given(var)):
            return False
        root = self.clusters.root[var]
        neck = self.necks[root]
        if self.clusters.place[var] <= self.clusters.place[neck]:
            return var == neck
        return var in self.clusters.exits(root)

    def _wants(self, user: relax.Var, var: relax.Var, integers: Mapping[relax.Var, None]) -> bool:
        """Say whether ``user``, bound later, wants to read ``var`` in integers."""
        value = self.graph.old[user]
        if user in self.layers:
            return value.args[0].same_as(var)
        root = self.clusters.root[user]
        if root != user:
            later = (other in integers for other in self._behind(root))
            return var in self.available and var == self.necks[root] and any(later)
        if self.is_move(user):
            return user in integers
        if operators.is_combining(value):
            return user in self.available and any(self._demanded(user, integers))
        return False

    def _behind(self, root: relax.Var) -> Iterator[relax.Var]:
        place = self.clusters.place
        neck = place[self.necks[root]]
        return (var for var in self.clusters.exits(root) if place[var] > neck)

    def _demanded(self, user: relax.Var, integers: Mapping[relax.Var, None]) -> Iterator[bool]:
        """Yield whether each tensor that the cluster of ``user`` stores is to be integers."""
        yield self.necks[user] in integers
        yield from (var in integers for var in self._behind(user))
