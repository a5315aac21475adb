"""The speed benchmark of compressed models: which rivals, which layers, the table."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from rich.console import Console

from benchmarks import reports
from benchmarks.speed.__main__ import select
from benchmarks.speed.compressed import (
    layers,
    measure,
    onnx_layer,
    rivals,
    sparse_layers,
    table,
)
from benchmarks.speed.compressed.measure import Contestant
from benchmarks.speed.compressed.works import WORKS
from benchmarks.zoo.catalogue import UnknownModelError, load_catalogue
from tvmopt.metrics.engines import EngineSpec
from tvmopt.metrics.turns import EngineResult


@pytest.fixture
def small_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(onnx_layer, "FOLDER", tmp_path)
    monkeypatch.setattr(rivals, "FOLDER", tmp_path)
    return tmp_path


def test_works_are_of_models_that_exist() -> None:
    catalogue = load_catalogue()
    for work in WORKS:
        assert layers.is_layer(work.id) or work.size < len(catalogue[work.model_id].shapes)
        assert work.variants
    assert len({work.id for work in WORKS}) == len(WORKS)


def test_a_part_can_be_asked_for() -> None:
    cases, works = select(["resnet18"], ["int8"])
    assert (cases, [work.id for work in works]) == ([], ["resnet18"])
    cases, works = select(["resnet18", "linear_1024"], ["fp32", "int8"])
    assert [case.id for case in cases] == ["resnet18"]
    assert {work.id for work in works} == {"resnet18", "linear_1024"}
    assert select(["linear_1024"], ["fp32"]) == ([], [])
    assert len(select([], ["int8"])[1]) == len(WORKS)
    with pytest.raises(UnknownModelError, match="no_such"):
        select(["no_such"], ["int8"])


def test_a_layer_computes_with_its_bits(small_models: Path) -> None:
    path = layers.make_layer("conv3x3_16x6_w4")
    assert path.parent == small_models
    weight = next(
        onnx.numpy_helper.to_array(w) for w in onnx.load(path).graph.initializer if w.name == "w"
    )
    assert (weight.min(), weight.max()) == (-7, 7)
    shapes = layers.layer_shapes("conv3x3_16x6_w4")
    x = np.random.default_rng(0).integers(0, 256, shapes["x"]).astype(np.uint8)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x})
    assert (y.dtype, y.shape) == (np.uint8, (1, 6, 6, 16))
    # Zeros are ReLU's; what is positive must use the range and not be cut off at its end.
    assert 0.3 < np.mean(y > 0) < 0.7
    assert y.max() > 50
    assert np.mean(y == 255) < 0.01


def test_a_strided_layer_has_twice_the_channels_and_half_the_size(small_models: Path) -> None:
    path = layers.make_layer("conv1x1s2_16x6_w5")
    assert path.parent == small_models
    model = onnx.load(path)
    weight = next(onnx.numpy_helper.to_array(w) for w in model.graph.initializer if w.name == "w")
    assert weight.shape == (32, 16, 1, 1)
    assert np.abs(weight.astype(int)).max() == 15
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.get_outputs()[0].shape == [1, 3, 3, 32]


@pytest.mark.parametrize("kind", ["qdq-u8s7", "qop-u8s7", "qdq-u8u8", "nbits-level4"])
def test_rivals_are_quantized_and_near_the_float_model(small_models: Path, kind: Any) -> None:
    path = layers.make_layer("linear_64")
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.normal(size=(1, 64)).astype(np.float32)} for _ in range(8)]
    made = rivals.make(kind, path, {"x": (1, 64)}, feeds)
    assert made.parent == small_models
    assert rivals.make(kind, path, {"x": (1, 64)}, feeds) == made
    kinds = {node.op_type for node in onnx.load(made).graph.node}
    assert kinds & {"QuantizeLinear", "QLinearMatMul", "MatMulNBits"}
    expected, found = (
        onnxruntime.InferenceSession(p, providers=["CPUExecutionProvider"]).run(None, feeds[0])[0]
        for p in (path, made)
    )
    # 4-bit weights in groups, the coarsest here, are off by at most 1/14 of the group's largest,
    # which is some 2.5 deviations: 0.1 in the mean square, or a cosine of 0.995.
    cosine = np.sum(expected * found) / np.linalg.norm(expected) / np.linalg.norm(found)
    assert cosine > 0.98


@pytest.mark.usefixtures("small_models")
def test_seven_bits_are_seven_bits() -> None:
    path = layers.make_layer("linear_64")
    feeds = [{"x": np.ones((1, 64), np.float32)}]
    made = onnx.load(rivals.make("qdq-u8s7", path, {"x": (1, 64)}, feeds))
    weights = [onnx.numpy_helper.to_array(w) for w in made.graph.initializer]
    (weight,) = (w for w in weights if w.shape == (64, 64))
    assert weight.dtype == np.int8
    # 64 * 255 * 2 is the largest sum of a pair that fits into 16 bits.
    assert np.abs(weight.astype(int)).max() in {63, 64}


def _result(engine: str, *rounds: float, output: Sequence[float] = (1.0, 0.0)) -> EngineResult:
    return EngineResult(
        spec=EngineSpec(engine=engine, path=Path("x")),
        version="1",
        threads=1,
        streams=1,
        load_ms=1.0,
        first_ms=1.0,
        rounds=tuple(np.array([seconds]) for seconds in rounds),
        inferences=1.0,
        outputs={"y": np.array([output])},
    )


def _row() -> dict[str, Any]:
    every = [
        ("tvmopt", "int8", 1.0, (1.0, 1.0)),
        ("tvmopt", "float", 2.0, (1.0, 0.0)),
        ("onnxruntime", "qdq-u8s7", 3.0, (1.0, 0.0)),
        ("onnxruntime", "float", 1.5, (1.0, 0.0)),
        ("openvino", "qdq-u8s7", 2.5, (1.0, 0.0)),
    ]
    contestants = [
        Contestant(spec=EngineSpec(engine=e, path=Path("x")), kind=k, title=f"{e} {k}")
        for e, k, _, _ in every
    ]
    results = [_result(e, t, t, output=y) for e, _, t, y in every]
    timing = measure.asdict(measure.summarize(1, contestants, results))
    return {"id": "resnet18", "recipe": "int8", "weights": "random", "timings": [timing]}


def test_each_comparison_has_its_own_rival() -> None:
    row = _row()
    int8, rival, own = (f(row, 1) for f in (table.best_int8, table.best_any, table.own_float))
    assert int8
    assert (int8["title"], int8["ratio"]) == ("openvino qdq-u8s7", 2.5)
    assert rival
    assert (rival["title"], rival["ratio"]) == ("onnxruntime float", 1.5)
    assert own
    assert own["ratio"] == 2.0
    assert row["timings"][0]["speeds"][0]["cosine"] == pytest.approx(np.sqrt(0.5))
    assert table.best_int8(row, 2) is None


def test_floats_are_compared_with_floats() -> None:
    row = _row()
    found = table.best_float(row, 1)
    assert found
    assert found["title"] == "onnxruntime float"
    # Of a file that is quantized itself only a float32 twin computes with floats.
    assert table.best_float({**row, "recipe": None}, 1) is None


def test_of_a_model_that_comes_quantized_every_rival_computes_with_integers() -> None:
    found = table.best_int8({**_row(), "recipe": None}, 1)
    assert found
    assert found["title"] == "onnxruntime float"


def test_the_table_has_a_line_for_each_work() -> None:
    rows = [_row(), {"id": "linear_1024", "recipe": "w4", "reason": "unknown recipe"}]
    lines = table.make_rows(rows, [1])
    assert all(len(line) == len(table.columns()) for line in lines)
    stream = io.StringIO()
    Console(file=stream, width=160).print(reports.make_table("t", table.columns(), lines))
    text = stream.getvalue()
    assert "resnet18*" in text
    assert "2.50 (2.50-2.50)" in text
    assert "int8 1.15" in text
    assert "own 1.15" in text
    assert table.footer(rows)[-1] == "linear_1024: unknown recipe"


def test_dynamic_rivals_quantize_products_at_run_time(small_models: Path) -> None:
    path = layers.make_layer("linear_64")
    made = onnx.load(rivals.make("dynamic-u8s7", path, {"x": (1, 64)}, []))
    assert small_models in path.parents
    kinds = [node.op_type for node in made.graph.node]
    assert "DynamicQuantizeLinear" in kinds
    assert "MatMulInteger" in kinds


@pytest.mark.parametrize("name", ["conv3x3_16x6_w7_16x4_80", "rows_32to64x5_w7_16x4_50"])
def test_a_sparse_layer_and_its_twin_agree(small_models: Path, name: str) -> None:
    layer = sparse_layers.parse(name)
    assert layer is not None
    paths = sparse_layers.make(layer), sparse_layers.make_twin(layer)
    assert {path.parent for path in paths} == {small_models}
    fed = sparse_layers.inputs(layer), sparse_layers.twin_inputs(layer)
    y, real = (
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feed)[0]
        for path, feed in zip(paths, fed, strict=True)
    )
    if layer.kernel:
        real = real.transpose(0, 2, 3, 1)
    constants = {
        w.name: onnx.numpy_helper.to_array(w) for w in onnx.load(paths[0]).graph.initializer
    }
    steps = np.rint(real / constants["y_scale"]) + constants["y_zero"]
    # Both sides round once; float32 sums may put a value on the other side of a half.
    assert np.abs(y.astype(int) - np.clip(steps, 0, 255)).max() <= 1
    assert y.max() - int(y.min()) > 20
    assert np.mean((y == 0) | (y == 255)) < 0.6


def test_a_sparse_layer_has_the_zeros_that_its_name_says() -> None:
    layer = sparse_layers.parse("conv1x1s2_64to128x56_w7_16x4_80")
    assert layer is not None
    assert (layer.shape, layer.out_shape) == ((1, 56, 56, 64), (1, 28, 28, 128))
    blocks = sparse_layers.weights(layer).reshape(8, 16, 16, 4)
    assert np.mean(blocks.any((1, 3))) == pytest.approx(0.2, abs=1 / 128)
    assert np.abs(sparse_layers.weights(layer).astype(int)).max() == 64
    assert sparse_layers.parse("conv1x1s2_64x56_w4") is None


def test_every_recipe_of_a_work_is_there() -> None:
    own = {work.recipe for work in WORKS if work.synthetic}
    assert own == {"sparse80-int8", "sparse70-int8-dynamic"}
    assert all(work.model in load_catalogue() for work in WORKS if work.synthetic)
