"""What is computed at load time, and what must not be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

from tvmopt import ir
from tvmopt.errors import UnsupportedError
from tvmopt.frontend.onnx import ImportedModel, load

RNG = np.random.default_rng(7)
X = RNG.standard_normal((1, 4, 6, 6), dtype=np.float32)


def operators(model: ImportedModel) -> list[str]:
    return [call.op.name for call in ir.calls(model.mod)]


def test_padding_computed_from_the_shape_becomes_constant(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel]
) -> None:
    # "same" padding as PyTorch exports it: (kernel - 1) - size % 2, spelled in ONNX operators.
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Slice", ["s", "two", "four"], ["hw"]),
        helper.make_node("Mod", ["hw", "twos"], ["odd"]),
        helper.make_node("Sub", ["twos", "odd"], ["after"]),
        helper.make_node("ConstantOfShape", ["six"], ["zeros"]),
        helper.make_node("Concat", ["zeros", "after"], ["pads"], axis=0),
        helper.make_node("Pad", ["x", "pads"], ["p"]),
        helper.make_node("MaxPool", ["p"], ["y"], kernel_shape=[3, 3], strides=[2, 2]),
    ]
    zeros = helper.make_tensor("value", TensorProto.INT64, [1], [0])
    nodes[4].attribute.append(helper.make_attribute("value", zeros))
    constants = {"two": [2], "four": [4], "twos": [2, 2], "six": [6]}
    initializers = {k: np.array(v, np.int64) for k, v in constants.items()}
    path = save(nodes, [("x", "float32", [1, 4, "h", "w"])], ["y"], initializers)
    model = agrees(path, {"x": X})
    assert operators(model) == ["relax.nn.pad", "relax.nn.max_pool2d"]


def test_reshape_by_parts_of_the_shape_becomes_a_view(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel]
) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"], axis=0),
        helper.make_node("Unsqueeze", ["n", "axis"], ["n1"]),
        helper.make_node("Concat", ["n1", "rest"], ["to"], axis=0),
        helper.make_node("Reshape", ["x", "to"], ["y"]),
    ]
    initializers = {
        "zero": np.array(0, np.int64),
        "axis": np.array([0], np.int64),
        "rest": np.array([-1], np.int64),
    }
    path = save(nodes, [("x", "float32", ["n", 4, 6, 6])], ["y"], initializers)
    assert operators(agrees(path, {"x": X})) == ["relax.reshape"]


def _branches() -> dict[str, object]:
    then = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["t"], "then_relu")],
        "then",
        [],
        [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)],
    )
    other = helper.make_graph(
        [
            helper.make_node("NonZero", ["x"], ["e"], "dead"),
        ],
        "else",
        [],
        [helper.make_tensor_value_info("e", TensorProto.INT64, None)],
    )
    return {"then_branch": then, "else_branch": other}


def test_constant_if_keeps_only_its_branch(save: Callable[..., Path]) -> None:
    nodes = [helper.make_node("If", ["yes"], ["y"], "if", **_branches())]
    path = save(nodes, [("x", "float32", [1, 4])], ["y"], {"yes": np.array(True)})
    assert operators(load(path)) == ["relax.nn.relu"]


def test_if_on_a_shape_is_constant(save: Callable[..., Path]) -> None:
    nodes = [
        helper.make_node("Size", ["x"], ["size"]),
        helper.make_node("Greater", ["size", "three"], ["yes"]),
        helper.make_node("If", ["yes"], ["y"], "if", **_branches()),
    ]
    path = save(nodes, [("x", "float32", [1, 4])], ["y"], {"three": np.array(3, np.int64)})
    assert operators(load(path)) == ["relax.nn.relu"]


def test_if_on_data_is_refused(save: Callable[..., Path]) -> None:
    nodes = [helper.make_node("If", ["flag"], ["y"], "choice", **_branches())]
    inputs = [("x", "float32", [1, 4]), ("flag", "bool", [])]
    message = r"If \(node 'choice'\): only an If whose condition is constant is compiled"
    with pytest.raises(UnsupportedError, match=message):
        load(save(nodes, inputs, ["y"]))


def test_dequantized_constant_stays_int8(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel]
) -> None:
    weight = RNG.integers(-127, 128, (8, 4, 3, 3)).astype(np.int8)
    scale = RNG.uniform(0.01, 0.02, 8).astype(np.float32)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wf"], "dq", axis=0),
        helper.make_node("Conv", ["x", "wf"], ["y"], "conv"),
    ]
    initializers = {"w": weight, "s": scale, "z": np.zeros(8, np.int8)}
    path = save(nodes, [("x", "float32", [1, 4, 6, 6])], ["y"], initializers)
    model = agrees(path, {"x": X})
    dequantize, conv = list(ir.calls(model.mod))
    assert operators(model) == ["relax.dequantize", "relax.nn.conv2d"]
    np.testing.assert_array_equal(ir.constant(dequantize.args[0]), weight)
    assert ir.constant(conv.args[1]) is None


def test_quantized_constant_is_not_folded(save: Callable[..., Path]) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["w", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["f"]),
        helper.make_node("Add", ["x", "f"], ["y"]),
    ]
    initializers = {
        "w": np.ones(4, np.float32),
        "s": np.array(0.3, np.float32),
        "z": np.array(3, np.uint8),
    }
    path = save(nodes, [("x", "float32", [1, 4])], ["y"], initializers)
    assert operators(load(path)) == ["relax.quantize", "relax.dequantize", "relax.add"]


@pytest.mark.parametrize("op_type", ["Expand", "Tile"])
def test_a_fold_does_not_blow_up_the_model(save: Callable[..., Path], op_type: str) -> None:
    nodes = [
        helper.make_node(op_type, ["one", "many"], ["big"]),
        helper.make_node("Mul", ["x", "big"], ["y"]),
    ]
    initializers = {"one": np.ones((1, 1), "f4"), "many": np.array([2048, 2048], np.int64)}
    model = load(save(nodes, [("x", "float32", [2048, 2048])], ["y"], initializers))
    held = [
        c.value.numpy().size for call in ir.calls(model.mod) for c in call.args if ir.is_constant(c)
    ]
    assert max(held) == 1


def test_constant_of_a_giant_shape_is_computed_not_stored(save: Callable[..., Path]) -> None:
    nodes = [
        helper.make_node("ConstantOfShape", ["many"], ["big"]),
        helper.make_node("Add", ["x", "big"], ["y"]),
    ]
    many = np.array([4096, 4096], np.int64)
    model = load(save(nodes, [("x", "float32", [4096, 4096])], ["y"], {"many": many}))
    assert operators(model) == ["relax.full", "relax.add"]


def test_recorded_shapes_of_another_input_size_are_forgotten(save: Callable[..., Path]) -> None:
    # ONNX Runtime believes the record and answers 1, so it is no reference here.
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Shape", ["r"], ["y"]),
    ]
    path = save(nodes, [("x", "float32", ["n", 4])], ["y"])
    proto = onnx.load(path)
    proto.graph.value_info.append(helper.make_tensor_value_info("r", TensorProto.FLOAT, [1, 4]))
    path.write_bytes(proto.SerializeToString())
    main = load(path, {"x": (3, 4)}).mod["main"]
    (_, value), *_ = ir.bindings(main)
    assert ir.constant(value).tolist() == [3, 4]


def test_functions_are_inlined(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel]
) -> None:
    body = [
        helper.make_node("Mul", ["a", "a"], ["sq"]),
        helper.make_node("Add", ["sq", "a"], ["b"]),
    ]
    imports = [helper.make_opsetid("", 17)]
    function = helper.make_function("mine", "SquarePlus", ["a"], ["b"], body, imports)
    nodes = [
        helper.make_node("SquarePlus", ["x"], ["h"], "first", domain="mine"),
        helper.make_node("SquarePlus", ["h"], ["y"], "second", domain="mine"),
    ]
    inputs = [("x", "float32", [2, 3])]
    path = save(nodes, inputs, ["y"], domains=["mine"], functions=[function])
    model = agrees(path, {"x": RNG.standard_normal((2, 3), dtype=np.float32)})
    assert operators(model) == ["relax.multiply", "relax.add"] * 2


def test_operator_with_only_a_definition_is_expanded(save: Callable[..., Path]) -> None:
    shape = [1, 2, 5, 8]
    nodes = [helper.make_node("Attention", ["x", "x", "x"], ["y"], "attention")]
    model = load(save(nodes, [("x", "float32", shape)], ["y"], opset=23))
    assert operators(model).count("relax.matmul") == 2
    assert "relax.nn.softmax" in operators(model)
    assert model.outputs[0].shape == tuple(shape)


def test_int4_weights_are_int8_constants_of_that_range(save: Callable[..., Path]) -> None:
    values = np.array([[-8, 7], [3, -1]])
    packed = helper.make_tensor("w", TensorProto.INT4, [2, 2], values.reshape(-1).tolist())
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["wf"]),
        helper.make_node("MatMul", ["x", "wf"], ["y"]),
    ]
    scale = {"s": np.array(0.5, np.float32), "w": np.zeros((2, 2), np.int8)}
    path = save(nodes, [("x", "float32", [1, 2])], ["y"], scale, opset=21)
    proto = onnx.load(path)
    kept = [t for t in proto.graph.initializer if t.name != "w"]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend([*kept, packed])
    path.write_bytes(proto.SerializeToString())
    constant = ir.constant(next(ir.calls(load(path).mod)).args[0])
    assert constant.dtype == np.int8
    np.testing.assert_array_equal(constant, values)
    assert isinstance(numpy_helper.to_array(packed), np.ndarray)
    assert isinstance(load(path).mod["main"], relax.Function)
