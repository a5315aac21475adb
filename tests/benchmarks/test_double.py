"""The float64 reference: right where float32 is not, and right where onnx.reference is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.zoo.double import evaluate, to_double
from benchmarks.zoo.verdict import NoReferenceError

RNG = np.random.default_rng(0)


def save(
    folder: Path,
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    shape: tuple[int, ...],
    opset: int = 17,
    kind: int = TensorProto.FLOAT,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]), path)
    return path


def test_sums_have_the_rounding_of_float64(tmp_path: Path) -> None:
    # 1 + 1e-9 is 1 in float32. The constant itself stays the float32 that it is in the file.
    small = np.array([1e-9], np.float32)
    nodes = [
        helper.make_node("Cast", ["x"], ["c"], to=TensorProto.FLOAT),
        helper.make_node("Constant", [], ["one"], value_float=1.0),
        helper.make_node("Add", ["c", "one"], ["s"]),
        helper.make_node("Add", ["s", "small"], ["y"]),
    ]
    path = save(tmp_path, nodes, {"small": small}, (1,))
    y = evaluate(path, {"x": np.zeros(1, np.float32)})["y"]
    assert y.dtype == np.float64
    assert y[0] - 1.0 == pytest.approx(float(small[0]), rel=1e-6)  # 2**-52 / 1e-9 = 2e-7


def test_branches_and_default_constants_are_widened() -> None:
    branch = helper.make_graph(
        [helper.make_node("ConstantOfShape", ["n"], ["b"])],
        "branch",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)],
    )
    node = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.BOOL, ())],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array([2]), "n")],
    )
    model = helper.make_model(graph)
    wide = to_double(model)
    inner = wide.graph.node[0].attribute[0].g
    assert inner.output[0].type.tensor_type.elem_type == TensorProto.DOUBLE
    assert inner.node[0].attribute[0].t.data_type == TensorProto.DOUBLE
    assert wide.graph.initializer[0].data_type == TensorProto.INT64
    assert model.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT  # as it was


@pytest.mark.parametrize("opset", [9, 13, 17])
def test_batch_normalization_uses_the_running_statistics(tmp_path: Path, opset: int) -> None:
    x = RNG.normal(size=(2, 3, 4, 5)).astype(np.float32)
    scale, bias, mean = RNG.normal(size=(3, 3)).astype(np.float32)
    variance = RNG.uniform(0.5, 2, 3).astype(np.float32)
    node = helper.make_node("BatchNormalization", ["x", *"sbmv"], ["y"], epsilon=0.5, momentum=0.9)
    constants = {"s": scale, "b": bias, "m": mean, "v": variance}
    y = evaluate(save(tmp_path, [node], constants, x.shape, opset), {"x": x})["y"]
    s, b, m, v = (c.astype(np.float64)[:, None, None] for c in (scale, bias, mean, variance))
    expected = (x - m) / np.sqrt(v + 0.5) * s + b
    np.testing.assert_allclose(y, expected, rtol=1e-12)  # some roundings of 1e-16


def test_gather_elements_takes_of_data_that_is_longer_elsewhere(tmp_path: Path) -> None:
    x = RNG.normal(size=(3, 6)).astype(np.float32)
    indices = np.array([[0, -1, 5, 2]])
    node = helper.make_node("GatherElements", ["x", "i"], ["y"], axis=1)
    y = evaluate(save(tmp_path, [node], {"i": indices}, x.shape), {"x": x})["y"]
    np.testing.assert_array_equal(y, x[:1, [0, 5, 5, 2]])


@pytest.mark.parametrize("shape", [(2, 3, 7), (2, 3, 4, 5), (2, 3, 2, 2, 2)])
def test_global_max_pool_keeps_channels(tmp_path: Path, shape: tuple[int, ...]) -> None:
    x = RNG.normal(size=shape).astype(np.float32)
    node = helper.make_node("GlobalMaxPool", ["x"], ["y"])
    y = evaluate(save(tmp_path, [node], {}, shape), {"x": x})["y"]
    assert y.shape == (2, 3, *[1] * (len(shape) - 2))
    np.testing.assert_array_equal(y.reshape(2, 3), x.reshape(2, 3, -1).max(axis=2))


def test_what_cannot_be_evaluated_says_why(tmp_path: Path) -> None:
    node = helper.make_node("Reshape", ["x", "n"], ["y"])
    path = save(tmp_path, [node], {"n": np.array([5])}, (1, 3))
    with pytest.raises(NoReferenceError, match="ValueError: cannot reshape array of size 3"):
        evaluate(path, {"x": np.zeros((1, 3), np.float32)})
