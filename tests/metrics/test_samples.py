"""Samples through a model, batch by batch."""

from __future__ import annotations

import numpy as np

from tvmopt.metrics.samples import predict
from tvmopt.runtime import TensorInfo

INFOS = (
    TensorInfo(name="x", dtype="float32", shape=(2, 3)),
    TensorInfo(name="scale", dtype="int64", shape=()),
)


def inputs(count: int) -> dict[str, np.ndarray]:
    return {
        "x": np.arange(count * 6, dtype=np.float32).reshape(-1, 3),
        "scale": np.arange(1, count + 1),
    }


def run(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    y = given["x"] * float(given["scale"])
    return {"y": y, "sum": y.sum(dtype=np.float32), "columns": y.sum(axis=0)}


def test_outputs_are_joined_along_the_batch_and_stacked_without_one() -> None:
    outputs = predict(run, INFOS, inputs(4), "in.npz")
    scale = np.repeat(np.arange(1, 5), 2)[:, None]
    assert np.array_equal(outputs["y"], inputs(4)["x"] * scale)
    assert outputs["sum"].shape == (4,)
    assert outputs["columns"].shape == (4, 3)


def test_outputs_are_copied_before_the_next_run_reuses_them() -> None:
    memory = np.zeros((2, 3), np.float32)

    def reuse(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        memory[...] = given["x"]
        return {"y": memory}

    assert np.array_equal(predict(reuse, INFOS, inputs(3), "in.npz")["y"], inputs(3)["x"])


def test_progress_is_told_each_run() -> None:
    told = []
    predict(run, INFOS, inputs(3), "in.npz", lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]
