"""A model and a recipe give another model: what is said of it, and every refusal."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import tvm
from onnx import TensorProto, helper, numpy_helper

import tvmopt
from tvmopt import LayerRule, Recipe
from tvmopt.calibration import Samples
from tvmopt.errors import DataError, OptionError, TargetError
from tvmopt.passes.quantize.bias_correction import CorrectBiasOptions
from tvmopt.passes.quantize.equalize_layers import EqualizeLayersOptions
from tvmopt.passes.quantize.keep_sensitive import KeepSensitiveOptions
from tvmopt.passes.quantize.quantize_dynamic import QuantizeDynamicOptions
from tvmopt.passes.quantize.quantize_static import QuantizeStaticOptions
from tvmopt.passes.quantize.quantize_weights import QuantizeWeightsOptions
from tvmopt.passes.quantize.repair_weights import RepairWeightsOptions
from tvmopt.passes.quantize.smooth_quant import SmoothQuantOptions
from tvmopt.targets import CpuTarget

STATIC = Recipe(
    passes=(QuantizeStaticOptions(), RepairWeightsOptions(rows=256)), keep="all", name="static"
)
HIDDEN, CLASSES = 48, 6


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scores: (n, 6) of x: (n, 24), one hidden layer."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        values = rng.standard_normal(shape) / np.sqrt(shape[0])
        return numpy_helper.from_array(values.astype(np.float32), name)

    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], name="hidden"),
            helper.make_node("Relu", ["h"], ["a"], name="act"),
            helper.make_node("Gemm", ["a", "w2", "b2"], ["scores"], name="head"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 24])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, None)],
        [
            weight("w1", 24, HIDDEN),
            weight("b1", HIDDEN),
            weight("w2", HIDDEN, CLASSES),
            weight("b2", CLASSES),
        ],
    )
    path = tmp_path_factory.mktemp("model") / "net.onnx"
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def model(path: Path) -> tvmopt.Model:
    return tvmopt.load(path)


@pytest.fixture(scope="module")
def data() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((64, 24)).astype(np.float32)


@pytest.fixture(scope="module")
def small(model: tvmopt.Model, data: np.ndarray) -> tvmopt.Model:
    return model.apply(STATIC, calibration={"x": data}, target="x86-64-v3")


def _scores(artifact: tvmopt.Artifact, folder: Path, data: np.ndarray) -> np.ndarray:
    with tvmopt.runtime.open(artifact.save(folder / "net.so")) as net:
        return np.concatenate([net(row[None]) for row in data])


def test_a_compressed_model_computes_nearly_the_same_in_integers(
    model: tvmopt.Model, small: tvmopt.Model, data: np.ndarray, here: CpuTarget, tmp_path: Path
) -> None:
    artifact = tvmopt.compile(small, here)
    kernels = [layer["kernel"] for layer in artifact.manifest["layers"]]
    assert sum(name.startswith("qu8_qc8w") for name in kernels) == 2
    dense = _scores(tvmopt.compile(model, here), tmp_path, data)
    found = _scores(artifact, tmp_path, data)
    # Two layers of 8-bit weights and activations: each rounding is off by half a step of at most
    # 1/127 of the largest value, at random, and inner products average it.
    assert np.abs(found - dense).max() < 0.03 * np.abs(dense).max()
    assert not np.array_equal(found, dense)


def test_what_was_done_is_told_layer_by_layer(small: tvmopt.Model) -> None:
    told = small.compression
    assert told is not None
    assert [layer.roles for layer in told.layers] == [("first", "linear"), ("last", "linear")]
    assert {layer.after for layer in told.layers} == {"uint8 x 8-bit by channel"}
    assert {layer.before for layer in told.layers} == {"float32"}
    hidden = told.layers[0]
    assert hidden.weight_bytes == (4 * 24 * HIDDEN, 24 * HIDDEN + 4 * HIDDEN)
    assert "8-bit weights" in hidden.reason
    assert "gptq: output error" in hidden.reason
    assert told.calibration is not None
    assert told.calibration.samples == 64
    assert told.target == "x86-64-v3"
    decided = {decision.pass_name for decision in small.report.decisions}
    assert {"QuantizeStatic", "RepairWeights"} <= decided


def test_the_manifest_records_recipe_samples_and_result(small: tvmopt.Model) -> None:
    artifact = tvmopt.compile(small, "x86-64-v3")
    recipe = artifact.manifest["recipe"]
    assert recipe == json.loads(json.dumps(recipe))
    assert (recipe["name"], recipe["sha256"]) == ("static", STATIC.sha256())
    assert recipe["calibration"]["samples"] == 64
    assert len(recipe["calibration"]["sha256"]) == 64
    assert [one["after"] for one in recipe["result"]] == 2 * ["uint8 x 8-bit by channel"]


def test_the_model_stays_as_it_was(path: Path, model: tvmopt.Model, small: tvmopt.Model) -> None:
    assert small is not model
    assert model.compression is None
    tvm.ir.assert_structural_equal(model.mod, tvmopt.load(path).mod, map_free_vars=True)


def test_the_same_samples_give_the_same_module(
    model: tvmopt.Model, data: np.ndarray, tmp_path: Path
) -> None:
    file = tmp_path / "calib.npz"
    np.savez(file, x=data, labels=np.zeros(64))
    recipe = Recipe(passes=(QuantizeStaticOptions(),), keep="all")

    def apply(given: object) -> tvm.IRModule:
        return model.apply(recipe, calibration=given, target="x86-64-v3").mod

    first = apply(file)
    for given in (str(file), data, {"x": data}, Samples(model.inputs, {"x": data})):
        tvm.ir.assert_structural_equal(apply(given), first, map_free_vars=True)
    with pytest.raises(ValueError, match="StructuralEqual check failed"):
        tvm.ir.assert_structural_equal(apply(2 * data), first, map_free_vars=True)


def test_compiling_leaves_integers_as_they_are(small: tvmopt.Model) -> None:
    from tvmopt.pipeline import canonicalize
    from tvmopt.report import Report

    again = canonicalize(small.mod, Report())
    tvm.ir.assert_structural_equal(again, small.mod, map_free_vars=True)


def test_a_forecast_needs_no_samples_and_says_what_will_be(
    model: tvmopt.Model, small: tvmopt.Model
) -> None:
    seen = model.forecast(STATIC, target="x86-64-v3")
    assert small.compression is not None
    for before, after in zip(seen.layers, small.compression.layers, strict=True):
        assert (before.layer, before.after) == (after.layer, after.after)
        assert before.cycles == after.cycles
        assert before.weight_bytes == after.weight_bytes
    assert seen.cycles == small.compression.cycles
    assert seen.calibration is None


def test_options_of_passes_are_a_recipe(model: tvmopt.Model) -> None:
    stored = model.apply([QuantizeWeightsOptions(storage="float16")])
    assert stored.compression is not None
    assert stored.compression.recipe.name == "custom"
    named = model.apply("fp16")
    tvm.ir.assert_structural_equal(named.mod, stored.mod, map_free_vars=True)
    assert named.compression is not None
    assert {layer.after for layer in named.compression.layers} == {"float32 x float16"}


def test_progress_is_told(model: tvmopt.Model, data: np.ndarray) -> None:
    told: list[tuple[str, int, int]] = []
    model.apply(STATIC, calibration=data, progress=lambda *step: told.append(step))
    assert ("repair weights", 2, 2) in told


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((64, 24))}, "'x' must be float32, got float64"),
        ({"x": np.zeros((15, 24), "f4")}, "must hold at least 16 samples, got 15"),
        ({"x": np.full((16, 24), np.nan, "f4")}, "'x' must be finite, got nan in sample 0"),
        ({"y": np.zeros((64, 24), "f4")}, "must be named as the inputs 'x', got 'y'"),
    ],
)
def test_samples_that_do_not_fit_are_refused(
    model: tvmopt.Model, change: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        model.apply("int8", calibration=change)


def test_samples_are_never_made_up(model: tvmopt.Model) -> None:
    message = (
        "recipe 'int8' must have calibration samples, of which quantize-static, repair-weights, "
        "keep-sensitive learns, got none"
    )
    with pytest.raises(DataError, match=message):
        model.apply("int8")


def test_what_cannot_be_is_refused(model: tvmopt.Model, small: tvmopt.Model) -> None:
    with pytest.raises(OptionError, match="compressed once, 'net' is by recipe 'static'; put"):
        small.apply("fp16")
    with pytest.raises(OptionError, match="got 'int9'; did you mean 'int8'"):
        model.apply("int9")
    with pytest.raises(TargetError):
        model.apply("fp16", target="x86-64-v33")
    rule = LayerRule(match=("haed*",), skip=True)
    recipe = Recipe(passes=(QuantizeWeightsOptions(),), layers=(rule,))
    with pytest.raises(OptionError, match=r"'haed\*' fits none of 2; did you mean 'head_matmul"):
        model.apply(recipe)
    with pytest.raises(OptionError, match=r"'haed\*' fits none of 2"):
        model.forecast(recipe)


@pytest.mark.parametrize(
    "passes",
    [
        (EqualizeLayersOptions(), QuantizeStaticOptions(), CorrectBiasOptions()),
        (SmoothQuantOptions(), QuantizeDynamicOptions(), RepairWeightsOptions(rows=256)),
        (QuantizeWeightsOptions(group_size=None, bits=3), RepairWeightsOptions(rows=256)),
    ],
)
def test_every_pass_runs_where_a_recipe_has_it(
    passes: tuple[object, ...], model: tvmopt.Model, data: np.ndarray
) -> None:
    small = model.apply(Recipe(passes=passes, keep="all"), calibration=data[:16])
    decided = {decision.pass_name for decision in small.report.decisions}
    assert {type(options).__name__.removesuffix("Options") for options in passes} <= decided
    assert small.compression is not None
    assert len(small.compression.changed) == 2


def test_predicted_time_is_of_the_numbers_that_are_left(
    model: tvmopt.Model, data: np.ndarray
) -> None:
    passes = (QuantizeStaticOptions(weight_bits=2), KeepSensitiveOptions(most_error=1e-9))
    small = model.apply(Recipe(passes=passes, keep="all"), calibration=data[:16])
    assert small.compression is not None
    assert not small.compression.changed  # all in floats again
    before, after = small.compression.cycles
    assert after == before


def test_a_net_that_masks_its_scores_is_compressed(
    path: Path, data: np.ndarray, tmp_path: Path
) -> None:
    net = onnx.load(path)
    net.graph.node[-1].output[0] = "raw"
    net.graph.node.append(helper.make_node("Relu", ["raw"], ["positive"], name="cut"))
    net.graph.node.append(helper.make_node("Add", ["positive", "mask"], ["scores"], name="masked"))
    mask = np.array([0, 0, -np.inf, 0, 0, 0], np.float32)
    net.graph.initializer.append(numpy_helper.from_array(mask, "mask"))
    onnx.save(net, tmp_path / "masked.onnx")
    # As the recipe int8, whatever is predicted to be faster.
    passes = (*STATIC.passes, KeepSensitiveOptions(widen=True, most_error=1.0))
    small = tvmopt.load(tmp_path / "masked.onnx").apply(
        replace(STATIC, passes=passes), calibration={"x": data}, target="x86-64-v3"
    )
    assert small.compression is not None
    assert {layer.after for layer in small.compression.layers} == {"uint8 x 8-bit by channel"}
    told = [d for d in small.report.decisions if d.pass_name == "KeepSensitive"]
    assert [(d.site, d.applied) for d in told] == [("main", False)]
    assert "not finite in floats: output 0" in told[0].reason


def test_finer_integers_leave_layers_of_run_time_as_they_are(
    model: tvmopt.Model, data: np.ndarray
) -> None:
    static = QuantizeStaticOptions(layers=("*hidden*",), weight_bits=3, sensitive_bits=3)
    keep = KeepSensitiveOptions(widen=True)
    passes = (static, QuantizeDynamicOptions(layers=("*head*",)), keep)
    mixed = Recipe(passes=passes, keep="all", name="mixed")
    small = model.apply(mixed, calibration={"x": data}, target="x86-64-v3")
    assert small.compression is not None
    hidden, head = small.compression.layers
    assert head.after == "int8 by row x 8-bit by channel"
    assert "sensitive" not in head.reason
    assert hidden.after == "float32"
    assert hidden.reason.startswith("it stays in floats, for it is sensitive")
