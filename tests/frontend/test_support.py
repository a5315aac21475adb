"""Operators and forms that are not compiled are named, all at once."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tvmopt.errors import UnsupportedError
from tvmopt.frontend.onnx import load, summarize

X = [("x", "float32", [1, 4])]


def test_all_unsupported_operators_are_named_with_their_nodes(save: Callable[..., Path]) -> None:
    nodes = [
        helper.make_node("Det", ["m"], ["a"], "det"),
        helper.make_node("NonZero", ["x"], ["b"], "nz_1"),
        helper.make_node("NonZero", ["x"], ["c"], "nz_2"),
        helper.make_node("Relu", ["x"], ["d"], "fine"),
        helper.make_node("Frobnicate", ["x"], ["e"], "frob", domain="acme"),
    ]
    inputs = [*X, ("m", "float32", [2, 2])]
    path = save(nodes, inputs, list("abcde"), domains=["acme"])
    message = (
        "model.onnx: every operator must be supported, got Det (node 'det'); NonZero (nodes "
        "'nz_1', 'nz_2'): its output shape depends on the data; acme.Frobnicate (node 'frob')"
    )
    with pytest.raises(UnsupportedError, match=re.escape(message)):
        load(path)


def test_many_nodes_are_counted(save: Callable[..., Path]) -> None:
    nodes = [helper.make_node("NonZero", ["x"], [f"y{i}"], f"nz{i}") for i in range(5)]
    with pytest.raises(UnsupportedError, match=r"NonZero \(nodes 'nz0', 'nz1', 'nz2' and 2 more\)"):
        load(save(nodes, X, [f"y{i}" for i in range(5)]))


def test_domain_decides_not_only_the_name(save: Callable[..., Path]) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"], "other", domain="acme")]
    with pytest.raises(UnsupportedError, match=r"acme\.Relu \(node 'other'\)"):
        load(save(nodes, X, ["y"], domains=["acme"]))


@pytest.mark.parametrize(
    ("node", "initializers", "message"),
    [
        (
            helper.make_node("Reshape", ["x", "n"], ["y"], "view"),
            {},
            "node 'view' (Reshape): the new shape must be constant, got a value computed from the",
        ),
        (
            helper.make_node("Pad", ["x", "p"], ["y"], "pad", mode="edge"),
            {"p": np.array([0, 0, 0], np.int64)},
            "node 'pad' (Pad) has an unsupported form",
        ),
        (
            helper.make_node("Gather", ["x", "i"], ["y"], "pick", axis=5),
            {"i": np.array([0, 1], np.int64)},
            "node 'pick' (Gather): an axis must lie in [-2, 2), got 5",
        ),
        (
            helper.make_node("MatMul", ["x", "w"], ["y"], "product"),
            {"w": np.ones((3, 2), np.float32)},
            "node 'product' (MatMul) has an unsupported form",
        ),
        (
            helper.make_node("Cast", ["x"], ["y"], "tiny", to=TensorProto.BFLOAT16),
            {},
            "node 'tiny' (Cast): the type to cast to must be float16/32/64, (u)int8/16/32/64 or "
            "bool, got BFLOAT16",
        ),
    ],
)
def test_unsupported_form_names_the_node(
    save: Callable[..., Path],
    node: object,
    initializers: dict[str, np.ndarray],
    message: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = save([node], [*X, ("n", "int64", [2])], ["y"], initializers)
    with pytest.raises(UnsupportedError, match=re.escape(f"model.onnx: {message}")) as err:
        load(path)
    assert "\n" not in str(err.value)
    assert len(str(err.value)) < 400
    assert capfd.readouterr() == ("", "")  # TVM prints nothing of its own


@pytest.mark.parametrize(
    ("dtype", "name"), [(TensorProto.STRING, "STRING"), (TensorProto.BFLOAT16, "BFLOAT16")]
)
def test_input_of_an_unsupported_type_is_named(
    save: Callable[..., Path], dtype: int, name: str
) -> None:
    path = save([helper.make_node("Identity", ["x"], ["y"])], X, ["y"])
    proto = onnx.load(path)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = dtype
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(UnsupportedError, match=f"input 'x' must be float16.*, got {name}"):
        load(path)


def test_summary_counts_without_shapes(save: Callable[..., Path]) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Relu", ["r"], ["y"]),
        helper.make_node("NonZero", ["r"], ["z"]),
    ]
    inputs = [("x", "float32", ["n", 4])]
    summary = summarize(save(nodes, inputs, ["y", "z"], {"w": np.ones((4, 3), "f4")}))
    assert list(summary.operators.items()) == [("Relu", 2), ("MatMul", 1), ("NonZero", 1)]
    assert (summary.parameters, summary.parameter_bytes) == (12, 48)
    assert summary.inputs == {"x": ("float", ("n", 4))}
    assert summary.unsupported == ("NonZero",)
    assert summary.opset == 17
