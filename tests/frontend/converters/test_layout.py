"""Operators that move elements: exact, and as few Relax operators as possible."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tvmopt import ir
from tvmopt.frontend.onnx import ImportedModel

X = np.arange(2 * 4 * 6 * 4, dtype=np.float32).reshape(2, 4, 6, 4) - 60
I64 = np.int64

# ONNX operator, attributes, constant inputs, and what it becomes.
CASES = [
    ("Reshape", {}, [[0, -1, 2]], ["reshape"]),
    ("Reshape", {}, [[2, 4, 6, 4]], []),
    ("Flatten", {"axis": 2}, [], ["reshape"]),
    ("Flatten", {"axis": 0}, [], ["reshape"]),
    ("Unsqueeze", {}, [[-1, 0]], ["reshape"]),
    ("Transpose", {}, [], ["permute_dims"]),
    ("Transpose", {"perm": [0, 2, 3, 1]}, [], ["permute_dims"]),
    ("Transpose", {"perm": [0, 1, 2, 3]}, [], []),
    ("Slice", {}, [[1], [3], [2]], ["strided_slice"]),
    ("Slice", {}, [[-1], [-100], [2], [-2]], ["flip", "strided_slice"]),
    ("Slice", {}, [[0, -3], [100, -1], [1, 2], [3, 1]], ["strided_slice"] * 2),
    ("Slice", {}, [[0], [1000]], []),
    ("Gather", {"axis": 1}, [[[0, -1], [2, 2]]], ["take"]),
    ("Gather", {"axis": 2}, [-1], ["strided_slice", "reshape"]),
    ("GatherElements", {"axis": 2}, [[[[[0, 1, -1, 5]]]]], ["gather_elements"]),
    ("GatherND", {}, [[[0, 3], [-1, -4]]], ["gather_nd"]),
    ("Expand", {}, [[3, 1, 1, 1, 1]], ["broadcast_to"]),
    ("Expand", {}, [[1, 1]], []),
    ("Tile", {}, [[1, 2, 1, 3]], ["tile"]),
    ("DepthToSpace", {"blocksize": 2}, [], ["reshape", "permute_dims", "reshape"]),
    ("DepthToSpace", {"blocksize": 2, "mode": "CRD"}, [], ["reshape", "permute_dims", "reshape"]),
    ("SpaceToDepth", {"blocksize": 2}, [], ["reshape", "permute_dims", "reshape"]),
    ("Trilu", {}, [], ["triu"]),
    ("Trilu", {"upper": 0}, [-1], ["tril"]),
    ("Dropout", {}, [], []),
    ("Identity", {}, [], []),
]


def operators(model: ImportedModel) -> list[str]:
    return [call.op.name.removeprefix("relax.") for call in ir.calls(model.mod)]


@pytest.mark.parametrize(("op_type", "attributes", "constants", "expected"), CASES)
def test_layout_operator_is_exact(
    save: Callable[..., Path],
    agrees: Callable[..., ImportedModel],
    op_type: str,
    attributes: dict[str, object],
    constants: list[object],
    expected: list[str],
) -> None:
    arrays = {f"c{i}": np.array(value, I64) for i, value in enumerate(constants)}
    if op_type == "GatherElements":
        arrays["c0"] = np.broadcast_to(arrays["c0"], (2, 4, 1, 4)).copy()
    nodes = [helper.make_node(op_type, ["x", *arrays], ["y"], **attributes)]
    path = save(nodes, [("x", "float32", X.shape)], ["y"], arrays)
    model = agrees(path, {"x": X}, bound=0.0)
    assert sorted(operators(model)) == sorted(expected)


def test_split_into_equal_and_unequal_parts(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel]
) -> None:
    nodes = [
        helper.make_node("Split", ["x"], ["a", "b"], axis=1, num_outputs=2),
        helper.make_node("Split", ["x"], ["c", "d", "e", "f"], axis=2, num_outputs=4),
        helper.make_node("Split", ["x", "sizes"], ["g", "h"], axis=-1),
    ]
    sizes = {"sizes": np.array([1, 3], I64)}
    path = save(nodes, [("x", "float32", X.shape)], list("abcdefgh"), sizes, opset=18)
    agrees(path, {"x": X}, bound=0.0)


def test_concat_of_many_parts(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel]
) -> None:
    nodes = [helper.make_node("Concat", ["x", "c", "x"], ["y"], axis=-2)]
    extra = {"c": np.ones((2, 4, 1, 4), np.float32)}
    agrees(save(nodes, [("x", "float32", X.shape)], ["y"], extra), {"x": X}, bound=0.0)


def test_gather_by_data_wraps_negative_indices(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel]
) -> None:
    nodes = [helper.make_node("Gather", ["table", "ids"], ["y"])]
    table = {"table": np.arange(15, dtype=np.float32).reshape(5, 3)}
    path = save(nodes, [("ids", "int32", [2, 3])], ["y"], table)
    ids = np.array([[0, 4, -1], [-5, 2, 3]], np.int32)
    model = agrees(path, {"ids": ids}, bound=0.0)
    assert operators(model) == ["take"]


def test_squeeze_before_and_after_opset_13(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel]
) -> None:
    x = X[:, :1, :, :1]
    inputs = [("x", "float32", x.shape)]
    old = [helper.make_node("Squeeze", ["x"], ["y"], axes=[1, 3])]
    assert operators(agrees(save(old, inputs, ["y"], opset=11), {"x": x})) == ["reshape"]
    new = [helper.make_node("Squeeze", ["x", "axes"], ["y"])]
    axes = {"axes": np.array([-1], I64)}
    assert operators(agrees(save(new, inputs, ["y"], axes), {"x": x})) == ["reshape"]
    every = [helper.make_node("Squeeze", ["x"], ["y"])]
    assert operators(agrees(save(every, inputs, ["y"]), {"x": x})) == ["reshape"]


def test_constant_of_shape_has_its_value_and_type(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel]
) -> None:
    value = numpy_helper.from_array(np.array([7], np.int32))
    nodes = [
        helper.make_node("ConstantOfShape", ["s"], ["c"], value=value),
        helper.make_node("Add", ["x", "c"], ["y"]),
    ]
    path = save(nodes, [("x", "int32", [2, 1])], ["y"], {"s": np.array([1, 3], I64)})
    agrees(path, {"x": np.array([[1], [2]], np.int32)})


def test_shape_is_int64_with_start_and_end(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel]
) -> None:
    nodes = [helper.make_node("Shape", ["x"], ["y"], start=1, end=-1)]
    model = agrees(save(nodes, [("x", "float32", X.shape)], ["y"]), {"x": X})
    assert model.outputs[0].dtype == "int64"


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
def test_pad_in_every_mode_is_one_operator(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel], mode: str
) -> None:
    nodes = [helper.make_node("Pad", ["x", "pads", "value"], ["y"], mode=mode)]
    arrays = {"pads": np.array([0, 0, 1, 2, 0, 0, 0, 1], I64), "value": np.array(-3.0, np.float32)}
    path = save(nodes, [("x", "float32", X.shape)], ["y"], arrays, opset=19)
    assert operators(agrees(path, {"x": X}, bound=0.0)) == ["nn.pad"]


def test_negative_padding_cuts_off(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel]
) -> None:
    nodes = [helper.make_node("Pad", ["x", "pads", "", "axes"], ["y"])]
    arrays = {"pads": np.array([-1, 1, 2, -2], I64), "axes": np.array([-1, 2], I64)}
    path = save(nodes, [("x", "float32", X.shape)], ["y"], arrays, opset=18)
    assert operators(agrees(path, {"x": X}, bound=0.0)) == ["strided_slice"] * 2 + ["nn.pad"]


def test_integer_tensors_move_too(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel]
) -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0]),
        helper.make_node("Cast", ["t"], ["y"], to=TensorProto.INT64),
    ]
    x = np.array([[1, -2, 300], [4, 5, -600]], np.int16)
    agrees(save(nodes, [("x", "int16", [2, 3])], ["y"]), {"x": x})


def test_one_hot_on_any_axis_with_negative_and_foreign_indices(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel]
) -> None:
    nodes = [
        helper.make_node("OneHot", ["ids", "depth", "values"], [f"axis{axis}"], axis=axis)
        for axis in (0, -1)
    ]
    constants = {"depth": np.array(4, I64), "values": np.array([-1, 2.5], np.float32)}
    path = save(nodes, [("ids", "int64", [2, 3])], ["axis0", "axis-1"], constants)
    agrees(path, {"ids": np.array([[0, 3, -1], [-4, 7, 2]], I64)}, bound=0.0)
