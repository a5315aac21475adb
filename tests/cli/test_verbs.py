"""What each verb says, for people and for machines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tvmopt import __version__

Run = Callable[..., object]
QUICK = ("--repeat", 3, "--seconds", 0.01)


@pytest.mark.parametrize(
    "name", ["inspect", "compile", "run", "bench", "profile", "eval", "targets", "demo"]
)
def test_every_verb_has_help_and_json(tvmopt: Run, name: str) -> None:
    ended = tvmopt(name, "--help")
    assert ended.code == 0
    assert "--json" in ended.out
    assert ended.err == ""


def test_version_and_help(tvmopt: Run) -> None:
    assert tvmopt("--version").out == f"tvmopt {__version__}\n"
    assert "compile" in tvmopt("--help").out
    bare = tvmopt()
    assert (bare.code, bare.err) == (0, "")
    assert "compile" in bare.out


def test_compile_says_what_it_did(tvmopt: Run, small_onnx: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.so"
    ended = tvmopt("compile", small_onnx, "-o", path, "--shape", "x=3x4", "--name", "net")
    assert ended.code == 0, ended.err
    assert path.with_suffix(".h").read_text().count("net_run(") >= 1
    for text in ("net.so and net.h", "net_create", "3x4", "scores", "MACs", "arena"):
        assert text in ended.out


def test_compile_for_machines(tvmopt: Run, small_onnx: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.so"
    document = tvmopt("compile", small_onnx, "-o", path, "-t", "x86-64-v3", "--json").document
    assert document["output"] == str(path)
    assert document["target"] == "x86-64-v3"
    assert document["macs"] == 4 * 6
    assert document["bytes"] == path.stat().st_size
    assert document["inputs"] == [{"name": "x", "dtype": "float32", "shape": [1, 4]}]


def test_inspect_an_onnx_file(tvmopt: Run, small_onnx: Path) -> None:
    ended = tvmopt("inspect", small_onnx, "--layers")
    assert ended.code == 0
    for text in ("opset 17", "MatMul", "Tanh", "nx4", "every operator is supported", "squash"):
        assert text in ended.out
    document = tvmopt("inspect", small_onnx, "--json").document
    assert (document["macs"], document["parameters"], document["sparsity"]) == (24, 24, 0.0)
    assert document["operators"][0]["operator"] in {"MatMul", "Tanh"}
    assert [layer["name"] for layer in document["layers"]] == ["linear", "squash"]


def test_inspect_shows_sparsity_structure_and_rank(tvmopt: Run, tmp_path: Path) -> None:
    from onnx import helper, numpy_helper, save_model

    weight = np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32)
    for row in range(0, 64, 8):  # inputs by outputs: blocks of 4 inputs by 16 outputs
        weight[row : row + 4, 16 * (row // 8 % 2) :][:, :16] = 0.0
    float_ = 1
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="linear")],
        "g",
        [helper.make_tensor_value_info("x", float_, [1, 64])],
        [helper.make_tensor_value_info("y", float_, [1, 32])],
        [numpy_helper.from_array(weight, "w")],
    )
    path = tmp_path / "pruned.onnx"
    save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    ended = tvmopt("inspect", path, "--layers")
    for text in ("25.00 % of the weights are zero; by layers: 16x4 in 1", "zeros in", "99 %"):
        assert text in ended.out
    (layer,) = tvmopt("inspect", path, "--json").document["layers"]
    assert (layer["sparsity"], layer["zeros"]) == (0.25, "16x4")
    assert layer["ranks"][0] <= layer["ranks"][1] <= layer["ranks"][2] == 32


def test_inspect_says_all_that_is_in_the_way(tvmopt: Run, save: Run, tmp_path: Path) -> None:
    from onnx import helper

    odd = [
        helper.make_node("First", ["x"], ["a"], name="one", domain="own"),
        helper.make_node("Second", ["a"], ["scores"], name="two", domain="own"),
    ]
    path = save(tmp_path / "odd.onnx", odd, ["n", "time", 4])
    ended = tvmopt("inspect", path)
    assert ended.code == 0
    for text in ("own.First ('one')", "own.Second ('two')", "--shape x="):
        assert text in ended.out
    document = tvmopt("inspect", path, "--json").document
    assert document["unsupported"] == {"own.First": ["one"], "own.Second": ["two"]}
    assert document["macs"] is None


def test_inspect_an_artefact_of_any_machine(tvmopt: Run, small_so: Path, tmp_path: Path) -> None:
    foreign = bytearray(small_so.read_bytes())
    foreign[18:20] = (183).to_bytes(2, "little")  # e_machine: aarch64
    (tmp_path / "foreign.so").write_bytes(foreign)
    ended = tvmopt("inspect", tmp_path / "foreign.so")
    assert ended.code == 0
    for text in ("artefact 'small'", "least glibc", "f32_gemm", "scores", "weights"):
        assert text in ended.out
    document = tvmopt("inspect", small_so, "--json").document
    assert document["name"] == "small"
    assert document["bytes"] == small_so.stat().st_size
    assert document["layers"]


def test_run_feeds_every_sample(
    tvmopt: Run, small_so: Path, data: Path, weight: np.ndarray, tmp_path: Path
) -> None:
    out = tmp_path / "out.npz"
    ended = tvmopt("run", small_so, "--input", data, "--output", out, "--threads", 1)
    assert ended.code == 0, ended.err
    assert "20x6" in ended.out
    with np.load(out) as arrays, np.load(data) as given:
        # Sums of four products below 30, then a function of slope at most 1 that is approximated
        # to a few units: 16 roundings of 2^-24 of 30.
        expected = np.tanh(given["x"] @ weight)
        np.testing.assert_allclose(arrays["scores"], expected, rtol=0, atol=16 * 30 * 2**-24)


def test_run_for_machines(tvmopt: Run, small_so: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    document = tvmopt("run", small_so, "-i", data, "-o", out, "--json").document
    assert document["outputs"] == [{"name": "scores", "dtype": "float32", "shape": [20, 6]}]


def test_bench_compares_with_rivals(tvmopt: Run, small_so: Path, small_onnx: Path) -> None:
    pytest.importorskip("onnxruntime")
    rival = f"{small_onnx}@onnxruntime"
    ended = tvmopt("bench", small_so, "--rival", rival, "--rival", small_so, *QUICK)
    assert ended.code == 0, ended.err
    assert ended.err == ""
    for text in ("ONNX Runtime", "p50 ms", "random, seed 0", "x (", "of the peak"):
        assert text in ended.out


def test_bench_for_machines(tvmopt: Run, small_so: Path, data: Path) -> None:
    ended = tvmopt("bench", small_so, "--rival", small_so, "--input", data, "--json", *QUICK)
    ours, same = ended.document["engines"]
    assert ended.document["inputs"] == str(data)
    assert ours["latency_ms"]["runs"] == same["latency_ms"]["runs"] == 3
    assert ours["speedup"] is None
    assert same["max_difference"] == 0.0
    assert same["speedup"]["least"] <= same["speedup"]["q1"] <= same["speedup"]["most"]


def test_profile_lists_every_layer(tvmopt: Run, small_so: Path) -> None:
    ended = tvmopt("profile", small_so, "--runs", 2)
    assert ended.code == 0
    for text in ("f32_gemm", "of peak", "GFLOP/s a core", "all"):
        assert text in ended.out
    document = tvmopt("profile", small_so, "--runs", 2, "--json").document
    assert document["peak_gflops"] > 0
    assert document["macs"] == 24
    assert sum(layer["share"] for layer in document["layers"]) == pytest.approx(1.0)


def test_eval_judges_labelled_data(tvmopt: Run, small_so: Path, data: Path) -> None:
    ended = tvmopt("eval", small_so, "--data", data)
    assert ended.code == 0
    for text in ("20 samples", "accuracy", "95.00 %", "precision", "recall", "f1", "top5"):
        assert text in ended.out


def test_eval_against_another_engine(
    tvmopt: Run, small_so: Path, small_onnx: Path, data: Path
) -> None:
    pytest.importorskip("onnxruntime")
    options = ("--against", small_onnx, "--metric", "accuracy,f1", "--max-drop", 0)
    ended = tvmopt("eval", small_so, "--data", data, *options)
    assert ended.code == 0, ended.err
    assert "small.onnx@onnxruntime" in ended.out
    document = tvmopt("eval", small_so, "--data", data, *options, "--json").document
    assert list(document["metrics"]) == ["accuracy", "f1"]
    assert document["metrics"]["accuracy"] == {
        "value": 0.95,
        "against": 0.95,
        "drop": 0.0,
        "standard_error": 0.0,
    }
    assert np.sum(document["confusion"]) == 20
    assert document["agreement"] == 1.0
    assert document["falls_short"] is False


def test_eval_that_falls_short_ends_with_one(
    tvmopt: Run, save: Run, nodes: Run, small_so: Path, data: Path, tmp_path: Path
) -> None:
    worse_nodes = nodes()
    worse_nodes[0].input[0] = "minus"  # scores change their signs
    from onnx import helper

    worse_nodes.insert(0, helper.make_node("Neg", ["x"], ["minus"], name="neg"))
    worse = save(tmp_path / "worse.onnx", worse_nodes, ["n", 4])
    assert tvmopt("compile", worse, "-o", tmp_path / "worse.so").code == 0
    options = ("--data", data, "--against", small_so, "--max-drop", 1)
    ended = tvmopt("eval", tmp_path / "worse.so", *options)
    assert ended.code == 1
    assert ended.err == ""
    assert "falls short: a metric drops by more than 1 points" in ended.out


def test_eval_without_labels_compares_outputs(
    tvmopt: Run, small_so: Path, data: Path, tmp_path: Path
) -> None:
    with np.load(data) as arrays:
        np.savez(tmp_path / "x.npz", x=arrays["x"])
    ended = tvmopt("eval", small_so, "--data", tmp_path / "x.npz", "--against", small_so)
    assert ended.code == 0
    assert "largest difference 0.00e+00" in ended.out
    assert "cosine 1.000000" in ended.out


def test_targets_are_listed_and_shown(tvmopt: Run) -> None:
    ended = tvmopt("targets")
    assert ended.code == 0
    for text in ("native", "x86-64-v3", "x86_64-linux-gnu", "256 bit"):
        assert text in ended.out
    one = tvmopt("targets", "x86-64-v3", "--json").document
    assert one["vector_bits"] == 256
    names = [target["name"] for target in tvmopt("targets", "--json").document["targets"]]
    assert names[0] == "native"
    assert "x86-64-v4" in names
