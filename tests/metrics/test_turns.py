"""Engines in processes of their own: that they run, agree, and fail with a reason."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from tvmopt.errors import ArtifactError, DataError, ModelError, OptionError
from tvmopt.metrics import cpus
from tvmopt.metrics.engines import EngineSpec
from tvmopt.metrics.prediction import outputs_of
from tvmopt.metrics.process import Burst, EngineProcess
from tvmopt.metrics.turns import Schedule, compare
from tvmopt.runtime import TensorInfo

QUICK = Schedule(repeat=5, rounds=2, seconds=0.01, pause_seconds=0.0)
INFOS = (TensorInfo(name="x", dtype="float32", shape=(2, 4)),)
# Four products and three sums, each rounded once, of values below 4 x 3: eps 2e-7 * 12 * 7 / 2.
BOUND = 1e-5


def ours(path: Path) -> EngineSpec:
    return EngineSpec(engine="tvmopt", path=path)


def test_all_engines_run_the_same_model(
    linear: Path, linear_onnx: Path, x: np.ndarray, weight: np.ndarray
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    rivals = [EngineSpec(engine=name, path=linear_onnx) for name in ("onnxruntime", "openvino")]
    told: list[tuple[int, int]] = []
    results = compare(
        [ours(linear), *rivals],
        {"x": x},
        schedule=QUICK,
        progress=lambda done, total: told.append((done, total)),
    )
    assert [result.spec.engine for result in results] == ["tvmopt", "onnxruntime", "openvino"]
    for result in results:
        assert [len(times) for times in result.rounds] == [3, 2]
        assert result.latency.runs == 5
        assert list(result.outputs) == ["scores"]
        np.testing.assert_allclose(result.outputs["scores"], x @ weight, atol=BOUND, rtol=0)
        assert result.version
    assert told == [(i, 6) for i in range(7)]
    assert results[0].speedup_over(results[0]).ratio == 1.0


def test_streams_run_at_once_and_add_up(linear: Path, x: np.ndarray) -> None:
    if len(cpus.available()) < 2:
        pytest.skip("needs two CPUs")
    (result,) = compare([ours(linear)], {"x": x}, streams=2, schedule=QUICK)
    assert result.streams == 2
    assert [len(times) for times in result.rounds] == [6, 4]


def test_inputs_that_do_not_fit_are_refused_with_the_workers_words(linear: Path) -> None:
    wrong = {"x": np.zeros((3, 4), np.float32)}
    with pytest.raises(DataError, match=r"'x' must have shape \(2, 4\), got \(3, 4\)"):
        compare([ours(linear)], wrong, schedule=QUICK)


def test_a_wrong_name_is_refused_by_a_rival(linear_onnx: Path, x: np.ndarray) -> None:
    pytest.importorskip("onnxruntime")
    rival = EngineSpec(engine="onnxruntime", path=linear_onnx)
    with pytest.raises(DataError, match=r"linear\.onnx@onnxruntime: inputs must be named 'x', got"):
        compare([rival], {"y": x}, schedule=QUICK)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_rival_that_refuses_a_file_is_quoted(engine: str, tmp_path: Path, x: np.ndarray) -> None:
    pytest.importorskip(engine)
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(ModelError, match=f"broken.onnx@{engine}: .* refuses it: .") as caught:
        compare([EngineSpec(engine=engine, path=path)], {"x": x}, schedule=QUICK)
    assert "\n" not in str(caught.value)


def test_what_is_no_artefact_is_refused(tmp_path: Path, x: np.ndarray) -> None:
    path = tmp_path / "broken.so"
    path.write_bytes(b"no code")
    with pytest.raises(ArtifactError, match="must be an ELF file"):
        compare([ours(path)], {"x": x}, schedule=QUICK)


def test_too_many_threads_are_refused_before_anything_starts(linear: Path, x: np.ndarray) -> None:
    with pytest.raises(OptionError, match="at most the"):
        compare([ours(linear)], {"x": x}, threads=len(cpus.available()) + 1, schedule=QUICK)


def test_a_process_that_dies_is_reported(linear: Path) -> None:
    process = EngineProcess(ours(linear))
    try:
        os.kill(process._process.pid, signal.SIGKILL)
        with pytest.raises(ArtifactError, match="must answer, it was killed by SIGKILL"):
            process.answer()
    finally:
        process.close()


def test_a_worker_ends_when_its_input_does(linear: Path, tmp_path: Path, x: np.ndarray) -> None:
    np.savez(tmp_path / "in.npz", x)
    process = EngineProcess(ours(linear))
    try:
        process.open(tmp_path / "in.npz", ["x"], None, 1, cpus.shares(1)[0])
        process.ask(Burst(seconds=1.0, warm_seconds=0.0, most=2))
        assert len(process.answer()) == 2
        assert process._process.stdin is not None
        process._process.stdin.close()
        assert process._process.wait(30) == 0
    finally:
        process.close()


def test_a_stopped_worker_ends_with_close(linear: Path) -> None:
    process = EngineProcess(ours(linear))
    process.stop()
    process.close()
    assert process._process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("engine", ["tvmopt", "onnxruntime", "openvino"])
def test_samples_pass_through_any_engine(
    engine: str, linear: Path, linear_onnx: Path, weight: np.ndarray
) -> None:
    if engine != "tvmopt":
        pytest.importorskip(engine)
    spec = EngineSpec(engine=engine, path=linear if engine == "tvmopt" else linear_onnx)
    x = np.random.default_rng(2).standard_normal((6, 4)).astype(np.float32)
    outputs = outputs_of(spec, INFOS, {"x": x}, where="x.npz")
    np.testing.assert_allclose(outputs["scores"], x @ weight, atol=BOUND, rtol=0)
