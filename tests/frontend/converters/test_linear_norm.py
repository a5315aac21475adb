"""Matrix products, normalizations and quantized operators."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tvmopt import ir
from tvmopt.errors import UnsupportedError
from tvmopt.frontend.onnx import ImportedModel, load

RNG = np.random.default_rng(13)


def draw(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, dtype=np.float32)


def operators(model: ImportedModel) -> list[str]:
    return [call.op.name.removeprefix("relax.") for call in ir.calls(model.mod)]


def test_gemm_transposes_and_scales_constants_at_once(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel]
) -> None:
    nodes = [helper.make_node("Gemm", ["x", "b", "c"], ["y"], alpha=0.5, beta=2.0, transB=1)]
    initializers = {"b": draw(4, 6), "c": draw(4)}
    path = save(nodes, [("x", "float32", [3, 6])], ["y"], initializers)
    model = agrees(path, {"x": draw(3, 6)})
    assert operators(model) == ["matmul", "add"]


def test_gemm_of_data_only(save: Callable[..., Path], agrees: Callable[..., ImportedModel]) -> None:
    nodes = [helper.make_node("Gemm", ["a", "b"], ["y"], alpha=3.0, transA=1)]
    path = save(nodes, [("a", "float32", [6, 3]), ("b", "float32", [6, 2])], ["y"])
    agrees(path, {"a": draw(6, 3), "b": draw(6, 2)})


def test_batch_norm_at_inference(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel]
) -> None:
    nodes = [helper.make_node("BatchNormalization", ["x", *"gbmv"], ["y"], epsilon=1e-3)]
    parameters = {name: np.abs(draw(3)) + np.float32(0.5) for name in "gbmv"}
    path = save(nodes, [("x", "float32", [2, 3, 4, 4])], ["y"], parameters)
    assert operators(agrees(path, {"x": draw(2, 3, 4, 4)})) == ["nn.batch_norm"]


def test_batch_norm_in_training_is_refused(save: Callable[..., Path]) -> None:
    node = helper.make_node(
        "BatchNormalization", ["x", *"gbmv"], ["y", "mean", "var"], "bn", training_mode=1
    )
    parameters = {name: np.ones(3, np.float32) for name in "gbmv"}
    path = save([node], [("x", "float32", [2, 3, 4, 4])], ["y", "mean", "var"], parameters)
    with pytest.raises(UnsupportedError, match=r"'bn' .*: training_mode must be 0"):
        load(path)


@pytest.mark.parametrize("axis", [-1, 1])
def test_layer_norm_and_its_other_outputs(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel], axis: int
) -> None:
    dims = (5,) if axis == -1 else (4, 5)
    node = helper.make_node("LayerNormalization", ["x", "g", "b"], ["y", "m", "s"], axis=axis)
    path = save(
        [node], [("x", "float32", [2, 4, 5])], ["y", "m", "s"], {"g": draw(*dims), "b": draw(*dims)}
    )
    agrees(path, {"x": draw(2, 4, 5)})


def test_layer_norm_alone_is_one_operator(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel]
) -> None:
    nodes = [helper.make_node("LayerNormalization", ["x", "g"], ["y"])]
    path = save(nodes, [("x", "float32", [2, 4, 5])], ["y"], {"g": draw(5)})
    assert operators(agrees(path, {"x": draw(2, 4, 5)})) == ["nn.layer_norm"]


@pytest.mark.parametrize("p", [1, 2])
def test_lp_normalization(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel], p: int
) -> None:
    nodes = [helper.make_node("LpNormalization", ["x"], ["y"], axis=1, p=p)]
    x = draw(2, 4, 5)
    x[0, :, 2] = 0  # a vector without a direction
    agrees(save(nodes, [("x", "float32", [2, 4, 5])], ["y"]), {"x": x})


def test_instance_norm(save: Callable[..., Path], agrees: Callable[..., ImportedModel]) -> None:
    nodes = [helper.make_node("InstanceNormalization", ["x", "g", "b"], ["y"])]
    path = save(nodes, [("x", "float32", [2, 3, 4, 4])], ["y"], {"g": draw(3), "b": draw(3)})
    agrees(path, {"x": draw(2, 3, 4, 4)})


@pytest.mark.parametrize("axis", [0, 1])
def test_quantize_and_dequantize_by_channel(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel], axis: int
) -> None:
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


def test_qlinear_conv_takes_the_form_of_quantize_pairs(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel]
) -> None:
    names = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"]
    nodes = [helper.make_node("QLinearConv", names, ["y"], pads=[1, 1, 1, 1])]
    initializers = {
        "xs": np.array(0.02, np.float32),
        "xz": np.array(7, np.uint8),
        # |w| <= 31: ONNX Runtime's u8 x s8 kernel saturates pairs of products on some machines.
        "w": RNG.integers(-31, 32, (4, 3, 3, 3)).astype(np.int8),
        "ws": RNG.uniform(0.01, 0.02, 4).astype(np.float32),
        "wz": np.zeros(4, np.int8),
        "ys": np.array(0.05, np.float32),
        "yz": np.array(128, np.uint8),
        "b": RNG.integers(-500, 500, 4).astype(np.int32),
    }
    path = save(nodes, [("x", "uint8", [1, 3, 5, 5])], ["y"], initializers)
    model = load(path)
    assert [op for op in operators(model) if "quantize" in op] == [
        "dequantize",
        "dequantize",
        "quantize",
    ]
    agrees(path, {"x": RNG.integers(0, 256, (1, 3, 5, 5)).astype(np.uint8)})


def test_integer_products_are_exact(
    save: Callable[..., Path], agrees: Callable[..., ImportedModel]
) -> None:
    nodes = [helper.make_node("MatMulInteger", ["a", "b", "az", "bz"], ["y"])]
    initializers = {
        "b": RNG.integers(-31, 32, (6, 4)).astype(np.int8),
        "az": np.array(100, np.uint8),
        "bz": np.array(3, np.int8),
    }
    path = save(nodes, [("a", "uint8", [3, 6])], ["y"], initializers)
    agrees(path, {"a": RNG.integers(0, 256, (3, 6)).astype(np.uint8)})


@pytest.mark.parametrize("axis", [-1, 0])
def test_rms_normalization(
    save: Callable[..., Path], run: Callable[..., list[np.ndarray]], axis: int
) -> None:
    x, gamma = draw(3, 4), draw(4) if axis == -1 else draw(3, 4)
    nodes = [helper.make_node("RMSNormalization", ["x", "g"], ["y"], axis=axis)]
    path = save(nodes, [("x", "float32", [3, 4])], ["y"], {"g": gamma}, opset=23)
    wide = x.astype(np.float64)
    square = np.mean(wide**2, axis=tuple(range(axis % 2, 2)), keepdims=True)
    expected = wide / np.sqrt(square + 1e-5) * gamma
    (got,) = run(load(path), {"x": x})
    # At most 12 terms in the mean, then four operations.
    np.testing.assert_allclose(got, expected, rtol=0, atol=16 * 2**-24 * np.abs(expected).max())
