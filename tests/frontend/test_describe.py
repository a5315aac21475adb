"""Mirror of tvmopt/frontend/describe.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tvmopt.errors import ModelError, ShapeError
from tvmopt.frontend.describe import describe


@pytest.fixture
def linear_onnx(save: Callable[..., Path]) -> Path:
    """y: (n, 5) = x: (n, 4) @ w, n open."""
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="linear")
    return save([node], [("x", "float32", ["n", 4])], ["y"], {"w": np.ones((4, 5), np.float32)})


def test_a_model_is_counted(linear_onnx: Path) -> None:
    found = describe(linear_onnx, {"x": (3, 4)})
    assert (found.macs, found.open_shapes, found.problem) == (3 * 4 * 5, None, None)
    assert [(la.name, la.operator, la.shape, la.parameters) for la in found.layers] == [
        ("linear", "MatMul", (3, 5), 20)
    ]
    assert not found.unsupported


def test_an_open_batch_is_one(linear_onnx: Path) -> None:
    assert describe(linear_onnx).macs == 4 * 5


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
    found = describe(saved(tmp_path / "odd.onnx", nodes, [1, 4]))
    assert {name: list(nodes) for name, nodes in found.unsupported.items()} == {
        "own.First": ["one", "two"],
        "own.Second": ["three"],
    }
    assert found.sparsity == 1.0


def test_open_dimensions_are_named_with_the_flag(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    path = saved(tmp_path / "open.onnx", nodes, ["n", "time", 4])
    found = describe(path)
    assert found.open_shapes is not None
    assert "'x'" in found.open_shapes
    assert "--shape x=" in found.open_shapes
    assert (found.layers, found.macs) == ((), None)
    assert found.summary.operators == {"MatMul": 1}


def test_a_given_shape_that_does_not_fit_is_refused(linear_onnx: Path) -> None:
    with pytest.raises(ShapeError, match="dimension 1 of input 'x' is 4"):
        describe(linear_onnx, {"x": (1, 5)})


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ModelError, match="must be an ONNX model"):
        describe(tmp_path / "text.onnx")


def test_sparsity_is_over_all_elements_of_matrices(save: Callable[..., Path]) -> None:
    constants = {
        "w": np.array([[1, 0, 0, 0]], np.float32),
        "v": np.array([[0, 2], [3, 4]], np.float32),
        "b": np.zeros(2, np.float32),  # a vector is no weight
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="first"),
        helper.make_node("MatMul", ["z", "v"], ["c"], name="second"),
        helper.make_node("Add", ["c", "b"], ["d"], name="third"),
    ]
    inputs = [("x", "float32", [3, 1]), ("z", "float32", [1, 2])]
    found = describe(save(nodes, inputs, ["a", "d"], constants))
    assert found.sparsity == 4 / 8
    assert {la.name: la.sparsity for la in found.layers} == {
        "first": 3 / 4,
        "second": 1 / 4,
        "third": None,
    }


def test_layers_tell_the_structure_of_their_zeros_and_their_ranks(
    save: Callable[..., Path],
) -> None:
    rng = np.random.default_rng(0)
    thin = (rng.normal(size=(32, 3)) @ rng.normal(size=(3, 48))).astype(np.float32)
    kernel = rng.normal(size=(16, 8, 3, 3)).astype(np.float32)
    # OIHW: two neighbouring input channels of a tap are zero for all 16 outputs, or are not.
    kernel[:, ::4] = kernel[:, 1::4] = 0.0
    kernel[:, 2:4, 0] = 0.0
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["a"], name="conv"),
        helper.make_node("Reshape", ["a", "shape"], ["b"], name="flat"),
        helper.make_node("Gemm", ["b", "thin"], ["y"], name="gemm", transB=0),
    ]
    values = {"kernel": kernel, "thin": thin, "shape": np.array([1, 32])}
    inputs = [("x", "float32", [1, 8, 4, 3])]
    conv, flat, gemm = describe(save(nodes, inputs, ["y"], values)).layers
    assert (conv.zeros, conv.ranks and conv.ranks[2]) == ("16x2", 16)
    assert conv.sparsity == pytest.approx(float(np.mean(kernel == 0)))
    assert (flat.zeros, flat.ranks) == (None, None)
    assert gemm.zeros is None
    # The third rank holds the last of the energy, up to float32's rounding.
    assert gemm.ranks is not None
    assert gemm.ranks[0] <= gemm.ranks[1] <= 3
    assert gemm.ranks[2] == 32


def test_quantized_weights_have_structures_too(save: Callable[..., Path]) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(1, 100, (16, 32)).astype(np.uint8)
    codes[:, 8:24] = 128  # the zero point: half of the inputs
    nodes = [
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["w"], axis=0),
        helper.make_node("Gemm", ["x", "w"], ["y"], name="gemm", transB=1),
    ]
    values = {
        "codes": codes,
        "scale": rng.random(16).astype(np.float32),
        "zero": np.full(16, 128, np.uint8),
    }
    layers = describe(save(nodes, [("x", "float32", [1, 32])], ["y"], values)).layers
    gemm = next(layer for layer in layers if layer.name == "gemm")
    assert (gemm.zeros, gemm.sparsity) == ("whole inputs", 0.5)
