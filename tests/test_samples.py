"""Samples in files: which are read, which fit, and how they are cut into batches."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest

from tvmopt.errors import DataError
from tvmopt.runtime import TensorInfo
from tvmopt.samples import batches, count_batches, load_npz, select_inputs

INFOS = (
    TensorInfo(name="x", dtype="float32", shape=(2, 3)),
    TensorInfo(name="scale", dtype="int64", shape=()),
)


def inputs(count: int) -> dict[str, np.ndarray]:
    return {
        "x": np.arange(count * 6, dtype=np.float32).reshape(-1, 3),
        "scale": np.arange(1, count + 1),
    }


def test_samples_are_fed_in_the_models_batch() -> None:
    assert count_batches(INFOS, inputs(4), "in.npz") == 4
    shapes = [given["x"].shape for given in batches(INFOS, inputs(4), 4)]
    assert shapes == [(2, 3)] * 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((4, 3))}, "in.npz: 'x' must be float32, got float64"),
        ({"x": np.zeros((4, 5), "f4")}, "'x' must have shape (samples, 3), got (4, 5)"),
        ({"x": np.zeros((3, 3), "f4")}, "a multiple of the model's batch of 2 samples, got 3"),
        ({"x": np.zeros((0, 3), "f4")}, "'x' must hold samples, got none"),
        ({"scale": np.ones((2, 2), "i8")}, "'scale' must have shape (samples), got (2, 2)"),
        ({"x": np.zeros((6, 3), "f4")}, "as many samples, got batches 3 of 'x', 2 of 'scale'"),
    ],
)
def test_samples_that_do_not_fit_are_refused(change: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        count_batches(INFOS, inputs(2) | change, "in.npz")


def test_a_missing_input_is_named_and_others_are_left_out() -> None:
    with pytest.raises(DataError, match="named as the inputs 'x', 'scale', got 'X'"):
        select_inputs(INFOS, {"X": np.zeros(1)}, "in.npz")
    assert list(select_inputs(INFOS, inputs(1) | {"labels": np.zeros(1)}, "a")) == ["x", "scale"]


def saved(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def test_npz_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "in.npz"
    path.write_bytes(saved(x=np.arange(3), labels=np.zeros(2)))
    assert {name: array.tolist() for name, array in load_npz(path).items()} == {
        "x": [0, 1, 2],
        "labels": [0, 0],
    }


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no zip at all",
        saved(x=np.arange(1000))[:-40],
        saved(x=np.array([{"a": 1}], dtype=object)),
        saved(x=np.arange(9)).replace(b"NUMPY", b"NUMPX"),
    ],
    ids=["empty", "text", "cut", "objects", "damaged"],
)
def test_what_is_no_npz_of_plain_arrays_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "in.npz"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"in\.npz: must be an \.npz file of plain arrays: \w"):
        load_npz(path)


def test_a_single_array_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", np.zeros(3))
    with pytest.raises(DataError, match="got a single array"):
        load_npz(tmp_path / "in.npy")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"readable [.]npz file: No such file"):
        load_npz(tmp_path / "no.npz")
