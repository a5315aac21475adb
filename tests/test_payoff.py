"""Whose time a step's time is."""

from __future__ import annotations

import tvm
from tvm import relax

from tvmopt.payoff import shares


def _module() -> tvm.IRModule:
    """x -> one -> a -> two -> b -> three -> out, and a -> side."""
    x = relax.Var("x", relax.TensorType((4,), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            made: dict[str, relax.Expr] = {"x": x}
            links = ("one x", "a one", "two a", "b two", "three b", "out three", "side a")
            for name, read in (link.split() for link in links):
                made[name] = builder.emit(relax.op.exp(made[read]), name)
            result = builder.emit_output(relax.Tuple([made["out"], made["side"]]))
        builder.emit_func_output(result)
    return builder.get()


LAYERS = ("one", "two", "three")


def test_a_step_between_two_compressed_layers_counts_for_both_alike() -> None:
    times = {"one": 10.0, "a": 4.0, "two": 20.0, "b": 2.0, "three": 30.0}
    assert shares(times, _module(), ["one", "two"], LAYERS) == {"one": 12.0, "two": 24.0}


def test_other_layers_stand_between_a_step_and_those_behind_them() -> None:
    times = {"b": 8.0, "out": 4.0, "side": 2.0}
    assert shares(times, _module(), ["one", "three"], LAYERS) == {"one": 2.0, "three": 12.0}


def test_what_is_next_to_no_compressed_layer_counts_for_none() -> None:
    times = {"out": 4.0, "two": 7.0, "gone": 3.0, "x": 1.0}
    assert shares(times, _module(), ["one"], LAYERS) == {"one": 1.0}
    assert shares(times, _module(), [], LAYERS) == {}
