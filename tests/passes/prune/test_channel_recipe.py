"""A recipe takes channels out of a model; what is left is a smaller artefact that runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tvmopt
from tvmopt import LayerRule, Recipe, ir
from tvmopt.passes.prune.channel_options import PruneChannelsOptions
from tvmopt.targets import CpuTarget

INPUTS, HIDDEN, CLASSES = 24, 64, 6
OPTIONS = PruneChannelsOptions(ratio=0.5, allocation="uniform", ridge=1e-6)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tvmopt.Model:
    """scores: (n, 6) of x: (n, 24); half of the hidden units give twice what the others give."""
    rng = np.random.default_rng(0)

    def weight(name: str, values: np.ndarray) -> onnx.TensorProto:
        return numpy_helper.from_array(values.astype(np.float32), name)

    first, second = rng.standard_normal((INPUTS, HIDDEN // 2)), rng.standard_normal(HIDDEN // 2)
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], name="hidden"),
            helper.make_node("Relu", ["h"], ["a"], name="act"),
            helper.make_node("Gemm", ["a", "w2", "b2"], ["scores"], name="head"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", INPUTS])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, None)],
        [
            weight("w1", np.concatenate([first, 2.0 * first], axis=1)),
            weight("b1", np.concatenate([second, 2.0 * second])),
            weight("w2", rng.standard_normal((HIDDEN, CLASSES))),
            weight("b2", rng.standard_normal(CLASSES)),
        ],
    )
    path = tmp_path_factory.mktemp("model") / "net.onnx"
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return tvmopt.load(path)


@pytest.fixture(scope="module")
def data() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((64, INPUTS)).astype(np.float32)


@pytest.fixture(scope="module")
def small(model: tvmopt.Model, data: np.ndarray, here: CpuTarget) -> tvmopt.Model:
    recipe = Recipe(passes=(OPTIONS,), keep="all", name="channels")
    return model.apply(recipe, calibration={"x": data}, target=here)


def _weights(model: tvmopt.Model) -> list[np.ndarray]:
    calls = (call for call in ir.calls(model.mod) if ir.is_call_to(call, "relax.matmul"))
    return [ir.constant(call.args[1]) for call in calls]


def _scores(artifact: tvmopt.Artifact, folder: Path, data: np.ndarray) -> np.ndarray:
    with tvmopt.runtime.open(artifact.save(folder / "net.so")) as net:
        return np.concatenate([net(row[None]) for row in data])


def test_the_artefact_of_half_the_units_gives_the_same(
    model: tvmopt.Model, small: tvmopt.Model, data: np.ndarray, here: CpuTarget, tmp_path: Path
) -> None:
    assert [weight.shape for weight in _weights(small)] == [(24, 32), (32, 6)]
    dense = _scores(tvmopt.compile(model, here), tmp_path, data)
    found = _scores(tvmopt.compile(small, here), tmp_path, data)
    # Each unit that went was a multiple of one that is left, so that least squares loses nothing
    # but what its pull towards the weights as they were costs: 1e-6 of the inputs' mean square,
    # while the weakest direction of 32 rectified units on 64 samples has some 1e-3 of it.
    assert np.abs(found - dense).max() < 1e-2 * np.abs(dense).max()
    assert not np.array_equal(found, dense)


def test_what_went_is_told_for_each_layer(small: tvmopt.Model) -> None:
    told = {layer.layer: layer for layer in small.compression.layers}
    hidden, head = told.values()
    assert "32 of 64 channels are left" in hidden.reason
    assert "32 of 64 inputs are left, output error" in head.reason
    assert small.compression.cycles[1] < small.compression.cycles[0]


def test_a_rule_keeps_a_layer_as_it_is(
    model: tvmopt.Model, data: np.ndarray, here: CpuTarget
) -> None:
    rules = (LayerRule(match=("head*",), skip=True),)
    recipe = Recipe(passes=(OPTIONS,), layers=rules, keep="all", name="channels")
    kept = model.apply(recipe, calibration={"x": data}, target=here)
    assert [weight.shape for weight in _weights(kept)] == [(24, 64), (64, 6)]


def test_a_forecast_needs_no_samples(model: tvmopt.Model, here: CpuTarget) -> None:
    recipe = Recipe(passes=(OPTIONS,), keep="all", name="channels")
    told = model.forecast(recipe, target=here)
    assert told.cycles[1] < told.cycles[0]
