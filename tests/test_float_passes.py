"""Passes that change shapes or make zeros run first; the others are planned on what they made."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tvmopt
from tvmopt import LayerRule, Recipe
from tvmopt.compression import LayerResult
from tvmopt.errors import OptionError
from tvmopt.passes.lowrank.factorize_layers import FactorizeLayersOptions
from tvmopt.passes.prune.prune_weights import PruneWeightsOptions
from tvmopt.passes.prune.refit_layers import RefitLayersOptions
from tvmopt.passes.quantize.quantize_dynamic import QuantizeDynamicOptions
from tvmopt.passes.quantize.repair_weights import RepairWeightsOptions

ROWS, WIDTH = 16, 64
TARGET = "x86-64-v3"
PRUNE = PruneWeightsOptions(structure="8x4", sparsity=0.75, ends=True, rows=512, rounds=2)
REFIT = RefitLayersOptions(rows=512, steps=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tvmopt.Model:
    """y: (16, 64) of x: (16, 64), three linear layers; the middle one is of rank 4."""
    rng = np.random.default_rng(0)

    def matrix(name: str, rank: int) -> onnx.TensorProto:
        parts = rng.standard_normal((WIDTH, rank)), rng.standard_normal((rank, WIDTH))
        values = parts[0] @ parts[1] / np.sqrt(rank * WIDTH)
        return numpy_helper.from_array(values.astype(np.float32), name)

    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w1"], ["h1"], name="one"),
            helper.make_node("Relu", ["h1"], ["a1"], name="act1"),
            helper.make_node("MatMul", ["a1", "w2"], ["h2"], name="two"),
            helper.make_node("Relu", ["h2"], ["a2"], name="act2"),
            helper.make_node("MatMul", ["a2", "w3"], ["y"], name="three"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [ROWS, WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [matrix("w1", WIDTH), matrix("w2", 4), matrix("w3", WIDTH)],
    )
    path = tmp_path_factory.mktemp("model") / "net.onnx"
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return tvmopt.load(path)


@pytest.fixture(scope="module")
def data() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((10 * ROWS, WIDTH)).astype(np.float32)


def _layers(model: tvmopt.Model, recipe: Recipe, data: np.ndarray) -> list[LayerResult]:
    small = model.apply(recipe, calibration=data, target=TARGET)
    assert small.compression is not None
    return list(small.compression.layers)


def test_zeros_are_told_and_stay_through_rounding_and_repair(
    model: tvmopt.Model, data: np.ndarray
) -> None:
    passes = (PRUNE, REFIT, QuantizeDynamicOptions(), RepairWeightsOptions(rows=512))
    for layer in _layers(model, Recipe(passes=passes, keep="all"), data):
        assert layer.changed
        assert layer.sparsity[0] == 0.0
        # Rounding to 255 steps makes a few more of the others zero.
        assert 0.75 <= layer.sparsity[1] < 0.8
        assert (layer.before, layer.after) == ("float32", "int8 by row x 8-bit by channel")
        assert layer.became == (layer.layer,)
        for said in ("75% of the 8x4 blocks are 0", "fitted: output error", "gptq: output error"):
            assert said in layer.reason


def test_a_layer_with_zeros_alone_is_changed(model: tvmopt.Model, data: np.ndarray) -> None:
    rule = LayerRule(match=("two*",), skip=True)
    recipe = Recipe(passes=(PRUNE,), layers=(rule,), keep="all")
    found = {layer.layer: layer for layer in _layers(model, recipe, data)}
    assert {name: layer.changed for name, layer in found.items()} == {
        "one": True,
        "two": False,
        "three": True,
    }
    assert {layer.after for layer in found.values()} == {"float32"}
    assert found["two"].reason == 'the recipe leaves it alone (match = "two*")'


def test_predicted_times_are_those_of_zeros(model: tvmopt.Model, data: np.ndarray) -> None:
    recipe = Recipe(passes=(PRUNE,), keep="all")
    blind = model.forecast(recipe, target=TARGET)
    seen = model.apply(recipe, calibration=data, target=TARGET).compression
    assert seen is not None
    # As many blocks go in both, only other ones: the lists of blocks are as long but for a few.
    assert [layer.sparsity for layer in blind.layers] == [layer.sparsity for layer in seen.layers]
    assert blind.cycles[0] == seen.cycles[0]
    assert blind.cycles[1] == pytest.approx(seen.cycles[1], rel=0.1)
    assert seen.cycles[1] < 0.7 * seen.cycles[0]
    assert any("no samples" in note for note in blind.notes)
    for layer in seen.layers:
        assert layer.cycles is not None
        assert layer.cycles[1] < layer.cycles[0]


def test_parts_of_a_layer_are_told_under_its_name(model: tvmopt.Model, data: np.ndarray) -> None:
    factorize = FactorizeLayersOptions(method="svd", ends=True, rows=512, error=0.01)
    skip = LayerRule(match=("two",), passes=("quantize-dynamic",), skip=True)
    recipe = Recipe(passes=(factorize, QuantizeDynamicOptions()), layers=(skip,), keep="all")
    found = {layer.layer: layer for layer in _layers(model, recipe, data)}
    assert list(found) == ["one", "two", "three"]
    two = found["two"]
    assert two.became == ("two__first", "two")
    # A rule for the layer holds for all of its parts.
    assert two.after == "float32"
    assert two.weight_bytes[1] < 0.3 * two.weight_bytes[0]
    assert found["three"].after == "int8 by row x 8-bit by channel"


def test_zeros_that_pay_nothing_are_not_made(model: tvmopt.Model, data: np.ndarray) -> None:
    few = PruneWeightsOptions(structure="8x4", sparsity=0.05, ends=True, rows=512, rounds=1)
    for layer in _layers(model, Recipe(passes=(few,)), data):
        assert not layer.changed
        assert layer.reason == "with 5% of its 8x4 blocks 0 it is predicted to be no faster"
    assert all(layer.changed for layer in _layers(model, Recipe(passes=(few,), keep="all"), data))


def test_zeros_come_before_integers() -> None:
    with pytest.raises(OptionError, match="'prune-weights' must come before 'quantize-dynamic'"):
        Recipe(passes=(QuantizeDynamicOptions(), PRUNE))
