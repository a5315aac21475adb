"""What is said of ONNX files before they are compiled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from tvmopt.errors import ModelError, ShapeError
from tvmopt.metrics.node_macs import node_macs
from tvmopt.metrics.onnx_model import look
from tvmopt.metrics.sparsity import sparsity


def value(*shape: int | str) -> onnx_ir.Value:
    return onnx_ir.Value(shape=onnx_ir.Shape(shape))


def node(
    op_type: str,
    inputs: list[tuple[int | str, ...]],
    output: tuple[int | str, ...],
    **attributes: int,
) -> onnx_ir.Node:
    given = [onnx_ir.AttrInt64(name, number) for name, number in attributes.items()]
    return onnx_ir.Node(
        "", op_type, [value(*shape) for shape in inputs], given, outputs=[value(*output)]
    )


@pytest.mark.parametrize(
    ("counted", "macs"),
    [
        (node("Conv", [(1, 6, 8, 8), (4, 3, 3, 3)], (1, 4, 8, 8), group=2), 4 * 64 * 27),
        (node("ConvTranspose", [(1, 6, 4, 4), (6, 2, 3, 3)], (1, 2, 9, 9)), 96 * 18),
        (node("QLinearConv", [(1, 3, 8, 8), (), (), (4, 3, 1, 1)], (1, 4, 8, 8)), 4 * 64 * 3),
        (node("MatMul", [(2, 5, 7), (7, 3)], (2, 5, 3)), 2 * 5 * 3 * 7),
        (node("Gemm", [(7, 5), (7, 3)], (5, 3), transA=1), 5 * 3 * 7),
        (node("LSTM", [(9, 2, 4), (1, 24, 4), (1, 24, 6)], (9, 1, 2, 6)), 9 * 2 * 4 * 6 * (4 + 6)),
        (node("Relu", [(2, 3)], (2, 3)), 0),
        (node("MatMul", [("n", 7), (7, 3)], ("n", 3)), None),
    ],
    ids=lambda item: item.op_type if isinstance(item, onnx_ir.Node) else None,
)
def test_macs_of_a_node(counted: onnx_ir.Node, macs: int | None) -> None:
    assert node_macs(counted) == macs


def test_sparsity_is_over_all_elements() -> None:
    assert sparsity([np.array([0, 1]), np.array([0, 0, 0, 1, 1, 1])]) == 0.5
    assert sparsity([]) == 0.0


def test_a_model_is_counted(linear_onnx: Path) -> None:
    found = look(linear_onnx, {"x": (3, 4)})
    assert (found.macs, found.open_shapes, found.problem) == (3 * 4 * 5, None, None)
    assert [(la.name, la.operator, la.shape, la.parameters) for la in found.layers] == [
        ("linear", "MatMul", (3, 5), 20)
    ]
    assert not found.unsupported


def test_an_open_batch_is_one(linear_onnx: Path) -> None:
    assert look(linear_onnx).macs == 4 * 5


def saved(path: Path, nodes: list[onnx.NodeProto], dims: list[int | str]) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.zeros((4, 4), np.float32), "w")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def test_every_unsupported_operator_is_named_with_its_nodes(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("First", ["x"], ["a"], name="one", domain="own"),
        helper.make_node("First", ["a"], ["b"], name="two", domain="own"),
        helper.make_node("Second", ["b", "w"], ["y"], name="three", domain="own"),
    ]
    found = look(saved(tmp_path / "odd.onnx", nodes, [1, 4]))
    assert {name: list(nodes) for name, nodes in found.unsupported.items()} == {
        "own.First": ["one", "two"],
        "own.Second": ["three"],
    }
    assert found.sparsity == 1.0


def test_open_dimensions_are_named_with_the_flag(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    path = saved(tmp_path / "open.onnx", nodes, ["n", "time", 4])
    found = look(path)
    assert found.open_shapes is not None
    assert "'x'" in found.open_shapes
    assert "--shape x=" in found.open_shapes
    assert (found.layers, found.macs) == ((), None)
    assert found.summary.operators == {"MatMul": 1}


def test_a_given_shape_that_does_not_fit_is_refused(linear_onnx: Path) -> None:
    with pytest.raises(ShapeError, match="dimension 1 of input 'x' is 4"):
        look(linear_onnx, {"x": (1, 5)})


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ModelError, match="must be an ONNX model"):
        look(tmp_path / "text.onnx")
