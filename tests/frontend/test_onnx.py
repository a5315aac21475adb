"""What a loaded model tells about itself."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tvmopt import ir
from tvmopt.frontend.onnx import ImportedModel, load

RNG = np.random.default_rng(3)


def _names(model: ImportedModel) -> list[str]:
    return [var.name for var, _ in ir.bindings(model.mod["main"])]


def test_layers_carry_the_names_of_their_nodes(save: Callable[..., Path]) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], "/stem/conv.1"),
        helper.make_node("Relu", ["c"], ["act_out"]),
        helper.make_node("HardSwish", ["act_out"], ["y"], "3rd"),
    ]
    initializers = {"w": np.ones((2, 3, 1, 1), "f4"), "b": np.ones(2, "f4")}
    model = load(save(nodes, [("x", "float32", [1, 3, 4, 4])], ["y"], initializers))
    names = _names(model)
    assert names[:3] == ["stem_conv_1_conv2d", "stem_conv_1", "act_out"]
    assert "_3rd" in names
    assert all(n.isidentifier() for n in names)
    assert len(set(names)) == len(names)
    hard_swish = names[3 : names.index("_3rd")]
    assert hard_swish
    assert all(n.startswith("_3rd_") for n in hard_swish)


def test_equal_and_odd_names_stay_apart(save: Callable[..., Path]) -> None:
    nodes = [
        helper.make_node("Relu", ["x:0"], ["a"], "layer/1"),
        helper.make_node("Neg", ["a"], ["b"], "layer.1"),
        helper.make_node("Exp", ["b"], ["y"], "???"),
    ]
    model = load(save(nodes, [("x:0", "float32", [2])], ["y"]))
    assert _names(model)[:3] == ["layer_1", "layer_1_2", "value"]
    assert model.inputs[0].name == "x:0"
    assert model.mod["main"].params[0].name == "x_0"


def test_outputs_may_be_inputs_constants_and_repeated(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel]
) -> None:
    nodes = [
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("Identity", ["y"], ["again"]),
        helper.make_node("Identity", ["w"], ["constant"]),
    ]
    path = save(
        nodes,
        [("x", "float32", [2, 3])],
        ["same", "y", "again", "constant"],
        {"w": np.arange(3, dtype=np.float32)},
    )
    model = agrees(path, {"x": RNG.standard_normal((2, 3), dtype=np.float32)})
    assert [spec.name for spec in model.outputs] == ["same", "y", "again", "constant"]


def test_an_input_that_nothing_uses_stays_in_the_signature(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel]
) -> None:
    inputs = [("unused", "int64", [2]), ("x", "float32", [2])]
    path = save([helper.make_node("Neg", ["x"], ["y"])], inputs, ["y"])
    model = agrees(path, {"unused": np.zeros(2, np.int64), "x": np.ones(2, np.float32)})
    assert [spec.name for spec in model.inputs] == ["unused", "x"]


def test_integers_and_booleans_keep_their_types(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel]
) -> None:
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("Greater", ["ids", "two"], ["big"]),
        helper.make_node("Add", ["ids", "two"], ["sum"]),
    ]
    initializers = {
        "table": RNG.standard_normal((5, 3), dtype=np.float32),
        "two": np.array(2, np.int64),
    }
    path = save(nodes, [("ids", "int64", [1, 4])], ["rows", "big", "sum"], initializers)
    model = agrees(path, {"ids": np.array([[0, 4, 2, -1]], np.int64)})
    assert [spec.dtype for spec in model.outputs] == ["float32", "bool", "int64"]


def test_dead_nodes_leave_nothing(save: Callable[..., Path]) -> None:
    nodes = [helper.make_node("Exp", ["x"], ["unused"]), helper.make_node("Neg", ["x"], ["y"])]
    model = load(save(nodes, [("x", "float32", [2])], ["y"]))
    assert [call.op.name for call in ir.calls(model.mod)] == ["relax.negative"]


@pytest.mark.parametrize(("file", "name"), [("my-net.v2.onnx", "my_net_v2"), ("3d.onnx", "_3d")])
def test_name_is_the_file_as_an_identifier(save: Callable[..., Path], file: str, name: str) -> None:
    path = save([helper.make_node("Neg", ["x"], ["y"])], [("x", "float32", [2])], ["y"], name=file)
    model = load(path)
    assert model.name == name
    assert model.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_loading_twice_gives_the_same_module(save: Callable[..., Path]) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], "conv")]
    weight = RNG.standard_normal((2, 3, 3, 3), dtype=np.float32)
    path = save(nodes, [("x", "float32", [1, 3, 8, 8])], ["y"], {"w": weight})
    assert load(path).mod.script() == load(path).mod.script()
