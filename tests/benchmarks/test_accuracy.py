"""The accuracy benchmark: verdicts, tasks, the probe."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest

from benchmarks.accuracy import fashion, methods, stories, table
from benchmarks.accuracy.asked import ASKED
from benchmarks.accuracy.methods import BITS
from benchmarks.accuracy.pictures import centred, standardized
from benchmarks.accuracy.task import Task
from benchmarks.accuracy.tasks import TASKS
from benchmarks.accuracy.verdict import against_labels, compare
from tvmopt.recipe import Recipe


def test_a_drop_comes_with_its_paired_error() -> None:
    right = np.array([True, False, False, True])
    reference_right = np.array([True, True, True, False])
    outputs = np.ones((4, 2))
    verdict = compare(right, reference_right, outputs, outputs)
    assert verdict.drop == pytest.approx(0.25)
    assert verdict.error == pytest.approx(np.sqrt(3) / 4)  # three samples flip
    assert verdict.cosine == pytest.approx(1.0)


def test_labels_judge_both_models() -> None:
    labels = np.array([0, 1, 1])
    verdict = against_labels(np.eye(2)[[0, 0, 1]], np.eye(2)[[0, 1, 1]], labels)
    assert (verdict.value, verdict.reference) == (pytest.approx(2 / 3), 1.0)


def _task() -> Task:
    stored = {"image": np.arange(6, dtype=np.uint8).reshape(6, 1)}
    return Task(
        id="x",
        metric="accuracy",
        path=Path("x.onnx"),
        shapes={"y": (1, 1)},
        calibration={"image": stored["image"][:2]},
        evaluation={"image": stored["image"][2:]},
        prepare=lambda arrays: {"y": arrays["image"] * np.float32(2)},
        reference=np.arange(4.0, 12.0, 2.0).reshape(4, 1),
        judge=lambda answers, reference: compare(
            answers[:, 0] == reference[:, 0], np.ones(4, bool), answers, reference
        ),
    )


def test_a_function_is_judged_on_every_sample() -> None:
    task = _task()
    assert task.evaluate(lambda feed: feed["y"]).drop == 0.0
    assert task.evaluate(lambda feed: np.minimum(feed["y"], 6.0)).drop == 0.5
    assert {name: array.tolist() for name, array in task.samples(1).items()} == {"y": [[0.0]]}
    assert task.first()["y"].tolist() == [[4.0]]


def test_no_image_of_the_demo_is_on_both_sides() -> None:
    task = fashion.demo()
    assert task.count == 10_000
    shown = {image.tobytes() for image in task.evaluation["image"]}
    assert not shown & {image.tobytes() for image in task.calibration["image"]}
    assert task.reference.argmax(axis=1).shape == (10_000,)
    assert task.judge(task.reference, task.reference).value == pytest.approx(0.9304)


def test_the_probe_is_where_its_gradient_vanishes() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 90)
    x = rng.normal(size=(90, 4)) + np.eye(3, 4)[labels]
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    weights = stories.fit(x, labels)
    one = np.hstack([x, np.ones((90, 1))])
    p = np.exp(one @ weights)
    p /= p.sum(axis=1, keepdims=True)
    gradient = one.T @ (p - np.eye(3)[labels])
    gradient[:-1] += weights[:-1] / stories.INVERSE_PENALTY
    # The search stops where the value no longer changes by 1e-9 of it; the terms are of size 1.
    assert np.max(np.abs(gradient)) < 1e-2


def test_pixels_become_what_networks_were_trained_on() -> None:
    stored = {"image": np.array([0, 127, 255], np.uint8).reshape(1, 3, 1, 1)}
    found = centred(stored, "x", middle=127.0, scale=128.0)["x"]
    assert found.dtype == np.float32
    assert found.ravel().tolist() == [-127 / 128, 0.0, 1.0]
    red, green, blue = standardized(stored, "x")["x"].ravel()
    # approx allows 1e-6 of the value: three float32 roundings, of 6e-8 each, magnified by the
    # difference of near values at most 15 times.
    assert (red, green) == (
        pytest.approx(-0.485 / 0.229),
        pytest.approx((127 / 255 - 0.456) / 0.224),
    )
    assert blue == pytest.approx((1 - 0.406) / 0.225)


def test_a_method_is_a_recipe_file(tmp_path: Path) -> None:
    method = methods.static(5, "equalize + gptq")
    path = method.source(tmp_path)
    assert isinstance(path, Path)
    found = tomllib.loads(path.read_text())
    assert found["keep"] == "all"
    assert [entry["name"] for entry in found["pass"]] == [
        "equalize-layers",
        "quantize-static",
        "repair-weights",
    ]
    assert found["pass"][1]["weight_bits"] == 5
    assert methods.named("int8").source(tmp_path) == "int8"


def test_every_recipe_and_pass_that_is_measured_exists(tmp_path: Path) -> None:
    assert set(methods.NAMED) <= set(Recipe.names())
    for bits in BITS:
        for repair in methods.REPAIRS:
            recipe = Recipe.load(methods.static(bits, repair).source(tmp_path))
            assert recipe.keep == "all"


def test_what_is_asked_is_of_what_is_measured() -> None:
    known = {*methods.NAMED, *(methods.static(b, r).name for b in BITS for r in methods.REPAIRS)}
    assert set(ASKED) <= set(TASKS)
    assert {name for bounds in ASKED.values() for name in bounds} <= known


def test_the_table_says_what_is_missed() -> None:
    verdict = {
        "samples": 10_000,
        "value": 0.9294,
        "reference": 0.9304,
        "error": 0.0005,
        "cosine": 0.999,
        "relative_error": 0.1,
    }
    row = {
        "task": "fashion_mnist",
        "method": "int8",
        "metric": "accuracy",
        "verdict": verdict,
        "size_bytes": 250_000,
        "seconds": 3.0,
        "speedup": (1.5, 1.4, 1.6),
    }
    worse = {**row, "verdict": {**verdict, "value": 0.9293}}
    skipped = {"task": "fashion_mnist", "method": "w4", "reason": "no such recipe"}
    good, bad, none = table.make_rows([row, worse, skipped])
    assert [str(cell) for cell in good[3:10]] == [
        "92.94",
        "+0.10 (0.05)",
        "0.1",
        "0.9990",
        "1.50 (1.40-1.60)",
        "0.25",
        "3",
    ]
    assert (getattr(good[4], "style", ""), getattr(bad[4], "style", "")) == ("green", "red")
    assert none[-1] == "no such recipe"
    assert all(len(line) == len(table.COLUMNS) for line in (good, bad, none))
