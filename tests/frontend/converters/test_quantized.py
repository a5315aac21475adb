"""Mirror of converters/quantized.py and blocked.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tvmopt import forms, ir
from tvmopt.errors import UnsupportedError
from tvmopt.frontend.onnx import ImportedModel, load

RNG = np.random.default_rng(23)
Save = Callable[..., Path]
Agrees = Callable[..., ImportedModel]


def draw(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, dtype=np.float32)


def operators(model: ImportedModel) -> list[str]:
    return [call.op.name.removeprefix("relax.") for call in ir.calls(model.mod)]


@pytest.mark.parametrize("axis", [0, 1])
def test_quantize_and_dequantize_by_channel(save: Save, agrees: Agrees, axis: int) -> None:
    size = (4, 6)[axis]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=axis),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=axis),
    ]
    scales = {
        "s": RNG.uniform(0.01, 0.1, size).astype(np.float32),
        "z": RNG.integers(-20, 20, size).astype(np.int8),
    }
    path = save(nodes, [("x", "float32", [4, 6])], ["q", "y"], scales)
    agrees(path, {"x": draw(4, 6)})


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
def test_every_type_of_integers(save: Save, agrees: Agrees, dtype: str) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    parameters = {"s": np.float32(0.01), "z": np.array(3, dtype)}
    path = save(nodes, [("x", "float32", [4, 6])], ["q", "y"], parameters, opset=21)
    agrees(path, {"x": draw(4, 6)})


@pytest.mark.parametrize("d", [8, 7])
@pytest.mark.parametrize("zero", [None, "int8", "uint8"])
def test_blocks_have_scales_of_their_own(
    save: Save, agrees: Agrees, d: int, zero: str | None
) -> None:
    dtype = zero or "uint8"
    inputs = ["x", "s"] if zero is None else ["x", "s", "z"]
    nodes = [
        helper.make_node("QuantizeLinear", inputs, ["q"], axis=1, block_size=4),
        helper.make_node("DequantizeLinear", ["q", *inputs[1:]], ["y"], axis=1, block_size=4),
    ]
    parameters = {"s": RNG.uniform(0.01, 0.05, (3, 2, 2)).astype(np.float32)}
    if zero is not None:
        parameters["z"] = RNG.integers(0, 20, (3, 2, 2)).astype(dtype)
    path = save(nodes, [("x", "float32", [3, d, 2])], ["q", "y"], parameters, opset=21)
    agrees(path, {"x": draw(3, d, 2)})


@pytest.mark.parametrize("signed", [True, False])
def test_a_matrix_of_four_bits_in_blocks_is_a_grouped_constant(
    save: Save, agrees: Agrees, signed: bool
) -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["d"], axis=0, block_size=4),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    parameters = {
        "w": np.zeros((8, 3), np.int8 if signed else np.uint8),
        "s": RNG.uniform(0.01, 0.05, (2, 3)).astype(np.float32),
        "z": np.zeros((2, 3), np.int8 if signed else np.uint8),
    }
    path = save(nodes, [("x", "float32", [2, 8])], ["y"], parameters, opset=21)
    model = onnx.load(path)
    kind = onnx.TensorProto.INT4 if signed else onnx.TensorProto.UINT4
    low = -8 if signed else 0
    for i, shape in ((0, (8, 3)), (2, (2, 3))):
        values = RNG.integers(low, low + 16, shape)
        tensor = helper.make_tensor("wsz"[i], kind, shape, values.ravel())
        model.graph.initializer[i].CopyFrom(tensor)
    path.write_bytes(model.SerializeToString())
    found = agrees(path, {"x": draw(2, 8)})
    values = dict(ir.bindings(found.mod["main"]))
    (matmul,) = (c for c in ir.calls(found.mod) if ir.is_call_to(c, "relax.matmul"))
    stored = forms.match_stored(matmul.args[1], lambda e: values.get(e, e))
    assert isinstance(stored, forms.Grouped)
    assert stored.codes.shape == (2, 4, 3)


def test_scales_that_fit_no_block_are_refused(save: Save) -> None:
    node = helper.make_node("DequantizeLinear", ["x", "s"], ["y"], "dq", axis=1, block_size=4)
    path = save([node], [("x", "int8", [3, 8])], ["y"], {"s": np.ones((3, 3), "f4")}, opset=21)
    message = r"'dq' .*: its scales must have the shape \[3, 2\], got \[3, 3\]"
    with pytest.raises(UnsupportedError, match=message):
        load(path)


def _conv(groups: int = 1) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    names = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"]
    node = helper.make_node("QLinearConv", names, ["y"], pads=[1, 1, 1, 1], group=groups)
    return [node], {
        "xs": np.array(0.02, np.float32),
        "xz": np.array(7, np.uint8),
        # |w| <= 31: ONNX Runtime's u8 x s8 kernel saturates pairs of products on some machines.
        "w": RNG.integers(-31, 32, (4, 4 // groups, 3, 3)).astype(np.int8),
        "ws": RNG.uniform(0.01, 0.02, 4).astype(np.float32),
        "wz": np.zeros(4, np.int8),
        "ys": np.array(0.05, np.float32),
        "yz": np.array(128, np.uint8),
        "b": RNG.integers(-500, 500, 4).astype(np.int32),
    }


@pytest.mark.parametrize("groups", [1, 4])
def test_qlinear_conv_takes_the_form_of_quantize_pairs(
    save: Save, agrees: Agrees, groups: int
) -> None:
    nodes, parameters = _conv(groups)
    path = save(nodes, [("x", "uint8", [1, 4, 5, 5])], ["y"], parameters)
    model = agrees(path, {"x": RNG.integers(0, 256, (1, 4, 5, 5)).astype(np.uint8)})
    assert operators(model) == [*["dequantize"] * 3, "nn.conv2d", "add", "quantize"]


def test_the_bias_counts_in_units_of_the_products(save: Save) -> None:
    nodes, parameters = _conv()
    path = save(nodes, [("x", "uint8", [1, 4, 5, 5])], ["y"], parameters)
    calls = list(ir.calls(load(path).mod))
    data, weight, bias = (forms.match_dequantize(calls[i]) for i in (0, 1, 2))
    assert data is not None
    assert weight is not None
    assert bias is not None
    np.testing.assert_array_equal(bias[1].scale, forms.bias_how(data[1], weight[1], 1).scale)
    np.testing.assert_array_equal(ir.constant(bias[0]).ravel(), parameters["b"])


@pytest.mark.parametrize("scale", ["float32", "float16"])
def test_qlinear_matmul_by_columns(
    save: Save, run: Callable[..., list[np.ndarray]], scale: str
) -> None:
    names = ["a", "as", "az", "b", "bs", "bz", "ys", "yz"]
    nodes = [helper.make_node("QLinearMatMul", names, ["y"])]
    parameters = {
        "as": np.array(0.02, scale),
        "az": np.array(7, np.uint8),
        "b": RNG.integers(-128, 128, (6, 4)).astype(np.int8),
        "bs": RNG.uniform(0.01, 0.02, 4).astype(scale),
        "bz": RNG.integers(-5, 5, 4).astype(np.int8),
        "ys": np.array(0.05, scale),
        "yz": np.array(128, np.uint8),
    }
    path = save(nodes, [("a", "uint8", [3, 6])], ["y"], parameters, opset=21)
    a = RNG.integers(0, 256, (3, 6)).astype(np.uint8)
    (got,) = run(load(path), {"a": a})
    wide = {n: v.astype(np.float64) for n, v in parameters.items()}
    exact = (a - wide["az"]) @ (wide["b"] - wide["bz"]) * wide["as"] * wide["bs"] / wide["ys"]
    # No result of this seed lies near enough to a half for a float32 sum to round it otherwise.
    assert np.abs(exact % 1 - 0.5).min() > 1e-3
    np.testing.assert_array_equal(got, np.clip(np.rint(exact) + 128, 0, 255))


def test_a_constant_that_is_cast_keeps_its_bits(save: Save, agrees: Agrees) -> None:
    nodes = [
        helper.make_node("Cast", ["w"], ["wide"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", ["wide", "s"], ["d"]),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    parameters = {
        "w": RNG.integers(-128, 128, (6, 4)).astype(np.int8),
        "s": RNG.uniform(0.01, 0.02, (1, 4)).astype(np.float32),
    }
    path = save(nodes, [("x", "float32", [3, 6])], ["y"], parameters)
    model = agrees(path, {"x": draw(3, 6)})
    assert operators(model) == ["astype", "multiply", "matmul"]


def test_a_vector_that_is_cast_is_one_of_floats(save: Save, agrees: Agrees) -> None:
    nodes = [
        helper.make_node("Cast", ["b"], ["wide"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Add", ["x", "wide"], ["y"]),
    ]
    path = save(nodes, [("x", "float32", [3, 6])], ["y"], {"b": np.arange(6, dtype=np.float16)})
    assert operators(agrees(path, {"x": draw(3, 6)})) == ["add"]
