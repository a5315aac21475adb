"""Compression that stops where a measured loss says so."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import tvmopt
from tvmopt import LayerRule, Recipe
from tvmopt.errors import DataError, OptionError
from tvmopt.passes.prune.prune_weights import PruneWeightsOptions
from tvmopt.passes.prune.refit_layers import RefitLayersOptions
from tvmopt.passes.quantize.quantize_static import QuantizeStaticOptions
from tvmopt.passes.quantize.quantize_weights import QuantizeWeightsOptions
from tvmopt.within_drop import without

COARSE = Recipe(
    passes=(QuantizeStaticOptions(weight_bits=2, sensitive_bits=2),), keep="all", name="coarse"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tvmopt.Model:
    """Three layers; the weights of the second lie on a grid of 2 bits, so it loses least."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.standard_normal((8, 16)),
        "w2": rng.choice([-1.0, 0.0, 1.0], (16, 16)),
        "w3": rng.standard_normal((16, 4)),
    }
    nodes, flow = [], "x"
    for i, name in enumerate(weights, start=1):
        nodes.append(helper.make_node("MatMul", [flow, name], [f"h{i}"], name=f"layer{i}"))
        flow = f"h{i}"
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])],
        [helper.make_tensor_value_info("h3", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )
    path = tmp_path_factory.mktemp("model") / "net.onnx"
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return tvmopt.load(path)


@pytest.fixture(scope="module")
def data() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((24, 8)).astype(np.float32)


def _left(small: tvmopt.Model) -> list[str]:
    assert small.compression is not None
    return [layer.layer for layer in small.compression.layers if not layer.changed]


def _lost(small: tvmopt.Model) -> float:
    """Return 5 for layer3 in integers, 2 for layer1, and nothing for layer2."""
    left = _left(small)
    return 5.0 * ("layer3" not in left) + 2.0 * ("layer1" not in left)


def test_a_recipe_that_loses_little_is_taken_whole(model: tvmopt.Model, data: np.ndarray) -> None:
    small, found = tvmopt.apply_within(model, COARSE, _lost, 7.0, calibration=data)
    assert (_left(small), found.drop, found.holds, len(found.trials)) == ([], 7.0, True, 1)


def test_the_fewest_of_the_worst_layers_stay_in_floats(
    model: tvmopt.Model, data: np.ndarray
) -> None:
    told: list[tuple[str, int, int]] = []
    small, found = tvmopt.apply_within(
        model, COARSE, _lost, 0.5, calibration=data, progress=lambda *step: told.append(step)
    )
    # Layer 2 loses least: it alone may stay in integers.
    assert _left(small) == ["layer1", "layer3"]
    assert (found.drop, found.holds) == (0.0, True)
    assert small.compression is not None
    assert small.compression.recipe.layers == (LayerRule(match=("layer1", "layer3"), skip=True),)
    ranked = [d for d in small.report.decisions if d.pass_name == "RankLayers"]
    assert [d.site for d in ranked][-1] == "layer2"
    assert ("rank layers", 2, 3) in told


def test_the_closest_is_given_where_nothing_holds(model: tvmopt.Model, data: np.ndarray) -> None:
    def lost(small: tvmopt.Model) -> float:
        return 1.0 + _lost(small)

    small, found = tvmopt.apply_within(model, COARSE, lost, 0.5, calibration=data)
    assert (found.holds, found.drop) == (False, 1.0)
    assert {"layer1", "layer3"} <= {*_left(small)}


def test_what_is_asked_must_make_sense(model: tvmopt.Model, data: np.ndarray) -> None:
    with pytest.raises(OptionError, match="must be at least 0, got -1"):
        tvmopt.apply_within(model, COARSE, _lost, -1.0, calibration=data)
    stored = Recipe(passes=(QuantizeWeightsOptions(),))
    with pytest.raises(DataError, match="layers are ranked by samples, got none"):
        tvmopt.apply_within(model, stored, _lost, 1.0, calibration=None)


def test_layers_are_kept_by_a_rule_at_the_end() -> None:
    rules = without(COARSE, frozenset({"b", "a"})).layers
    assert rules == (LayerRule(match=("a", "b"), skip=True),)
    assert without(COARSE, frozenset()) is COARSE


def test_layers_that_are_only_pruned_are_ranked_too(model: tvmopt.Model, data: np.ndarray) -> None:
    prune = PruneWeightsOptions(
        structure="unstructured", sparsity=0.25, ends=True, importance="magnitude", repair=False
    )
    recipe = Recipe(passes=(prune, RefitLayersOptions(scope="layers")), keep="all")
    small, found = tvmopt.apply_within(model, recipe, _lost, 0.5, calibration=data)
    assert (found.drop, found.holds) == (0.0, True)
    assert {"layer1", "layer3"} <= {*_left(small)}
    ranked = [d.site for d in small.report.decisions if d.pass_name == "RankLayers"]
    assert {"layer1", "layer3"} <= {*ranked}
