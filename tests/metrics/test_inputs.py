from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tvmopt.errors import DataError
from tvmopt.metrics.inputs import given_or_random, input_infos, random_inputs
from tvmopt.runtime import TensorInfo


def infos(*dtypes: str) -> list[TensorInfo]:
    return [TensorInfo(name=dtype, dtype=dtype, shape=(50, 3)) for dtype in dtypes]


def test_the_same_seed_gives_the_same_inputs() -> None:
    wanted = infos("float32", "int64")
    first, second = random_inputs(wanted), random_inputs(wanted)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert not np.array_equal(first["float32"], random_inputs(wanted, seed=1)["float32"])


@pytest.mark.parametrize(
    ("dtype", "least", "most"),
    [("uint8", 0, 127), ("int8", 0, 127), ("int32", 0, 1), ("int64", 0, 1), ("bool", 0, 1)],
)
def test_integers_are_small_and_not_negative(dtype: str, least: int, most: int) -> None:
    array = random_inputs(infos(dtype))[dtype]
    assert (array.dtype, array.shape) == (np.dtype(dtype), (50, 3))
    assert least <= array.min() < array.max() <= most


def test_infos_come_from_the_manifest(linear: Path) -> None:
    assert input_infos(linear) == (TensorInfo(name="x", dtype="float32", shape=(2, 4)),)


def test_the_first_batch_of_a_file_is_taken(linear: Path, tmp_path: Path) -> None:
    samples = np.arange(24, dtype=np.float32).reshape(6, 4)
    np.savez(tmp_path / "in.npz", x=samples)
    inputs, source = given_or_random(linear, tmp_path / "in.npz")
    assert np.array_equal(inputs["x"], samples[:2])
    assert source == str(tmp_path / "in.npz")


def test_random_inputs_say_so(linear: Path) -> None:
    assert given_or_random(linear, None)[1] == "random, seed 0"


def test_a_file_that_does_not_fit_is_refused(linear: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=np.zeros((2, 4)))
    with pytest.raises(DataError, match="'x' must be float32, got float64"):
        given_or_random(linear, tmp_path / "in.npz")
