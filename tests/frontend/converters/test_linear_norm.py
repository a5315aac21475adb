"""Matrix products and normalizations."""

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
