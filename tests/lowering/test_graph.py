"""Mirror of tvmopt/lowering/graph.py."""

from __future__ import annotations

from types import SimpleNamespace

from tvm import relax

from tvmopt.lowering.graph import Graph

op = relax.op


def test_who_makes_and_who_reads(kit: SimpleNamespace) -> None:
    made: dict[str, relax.Var] = {}

    def body(emit: object, x: relax.Var) -> tuple[relax.Var, ...]:
        made["x"] = x
        made["a"] = emit(op.nn.relu(x), "a")
        made["b"] = emit(op.add(made["a"], made["a"]), "b")
        made["c"] = emit(op.add(made["b"], made["a"]), "c")
        return made["c"], made["b"]

    graph = Graph.of(kit.module(body, (2, 3))["main"])
    by_name = {node.var.name: node for node in graph.nodes}
    a, b, c = (by_name[name].var for name in "abc")
    assert [node.var.name for node in graph.users[a]] == ["b", "c"]  # twice in b, but one reader
    assert graph.only_user(a) is None
    assert graph.only_user(b) is None  # the output tuple reads it too
    assert graph.born(made["x"]) == -1
    assert (graph.born(a), graph.born(b), graph.born(c)) == (0, 1, 2)
    assert graph.maker(c) is by_name["c"]
    assert graph.maker(relax.const(1.0)) is None


def test_aliases_lead_to_the_first_name(kit: SimpleNamespace) -> None:
    mod = kit.module(lambda emit, x: emit(emit(emit(op.nn.relu(x), "relu")), "alias"), (2, 3))
    graph = Graph.of(mod["main"])
    source = graph.source(mod["main"].body.body)
    assert source is not None
    assert source.name == "relu"
    assert graph.source(relax.const(1.0)) is None


def test_one_reader_of_a_value_that_is_not_returned(kit: SimpleNamespace) -> None:
    mod = kit.module(lambda emit, x: emit(op.tanh(emit(op.nn.relu(x), "a")), "b"), (2, 3))
    graph = Graph.of(mod["main"])
    user = graph.only_user(graph.nodes[0].var)
    assert user is not None
    assert user.var.name == "b"
