"""Samples: what fits, how it is fed, and every refusal."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tvmopt.calibration import LEAST_SAMPLES, Samples, load_samples
from tvmopt.errors import DataError, OptionError
from tvmopt.runtime import TensorInfo

INPUTS = (
    TensorInfo(name="x", dtype="float32", shape=(2, 3)),
    TensorInfo(name="ids", dtype="int64", shape=(2,)),
)


def arrays(count: int) -> dict[str, np.ndarray]:
    return {
        "x": np.arange(3 * count, dtype=np.float32).reshape(count, 3),
        "ids": np.arange(count),
        "labels": np.zeros(count),
    }


def test_batches_come_in_order_as_often_as_one_likes() -> None:
    data = Samples(INPUTS, arrays(20))
    assert (len(data), data.count, data.batch) == (10, 20, 2)
    for _ in range(2):
        feeds = list(data)
        assert len(feeds) == 10
        assert [feed["ids"].tolist() for feed in feeds[:2]] == [[0, 1], [2, 3]]
        assert feeds[9]["x"].tolist() == [[54, 55, 56], [57, 58, 59]]
        assert set(feeds[0]) == {"x", "ids"}


def test_some_of_the_batches_are_evenly_spaced_and_share_the_arrays() -> None:
    given = arrays(20)
    few = Samples(INPUTS, given).spread(4)
    assert [feed["ids"][0] for feed in few] == [0, 4, 10, 14]
    assert all(np.shares_memory(feed["x"], given["x"]) for feed in few)
    assert [feed["ids"][0] for feed in few.spread(2)] == [0, 10]
    assert len(few.spread(100)) == 4
    with pytest.raises(OptionError, match=r"batches must be at least 1, got 0"):
        few.spread(0)


def test_the_digest_depends_on_every_value_and_on_no_other_array() -> None:
    given = arrays(16)
    digest = Samples(INPUTS, given).sha256()
    assert Samples(INPUTS, given | {"labels": np.ones(16)}).sha256() == digest
    given["x"][15, 2] += 1
    assert Samples(INPUTS, given).sha256() != digest


def test_a_model_of_batch_one_takes_any_number() -> None:
    one = (TensorInfo(name="x", dtype="float32", shape=(1, 3)),)
    data = Samples(one, {"x": np.ones((17, 3), np.float32)})
    assert (len(data), next(iter(data))["x"].shape) == (17, (1, 3))


def test_a_single_number_for_each_sample_will_do() -> None:
    one = (TensorInfo(name="t", dtype="float32", shape=()),)
    assert Samples(one, {"t": np.float32(3)}, least=1).count == 1
    with pytest.raises(DataError, match="'t' must be finite, got nan in sample 0"):
        Samples(one, {"t": np.float32("nan")}, least=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.ones((20, 3))}, "'x' must be float32, got float64"),
        ({"x": np.ones((20, 4), "f4")}, "'x' must have shape (samples, 3), got (20, 4)"),
        ({"x": np.ones((21, 3), "f4")}, "a multiple of the model's batch of 2 samples, got 21"),
        ({"ids": np.arange(18)}, "as many samples, got batches 10 of 'x', 9 of 'ids'"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        Samples(INPUTS, arrays(20) | change)
    assert str(caught.value).startswith("calibration data: ")
    assert "\n" not in str(caught.value)


def test_missing_inputs_are_named() -> None:
    with pytest.raises(DataError, match="must be named as the inputs 'x', 'ids', got 'x'"):
        Samples(INPUTS, {"x": arrays(20)["x"]})


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_with_their_place(odd: float) -> None:
    given = arrays(20)
    given["x"][7, 1] = odd
    with pytest.raises(DataError, match=rf"'x' must be finite, got {odd} in sample 7$"):
        Samples(INPUTS, given)


def test_too_few_samples_are_refused_unless_fewer_are_asked_for() -> None:
    assert LEAST_SAMPLES == 16
    message = "must hold at least 16 samples, got 14; add samples .* or lower .* 'min_samples'"
    with pytest.raises(DataError, match=message):
        Samples(INPUTS, arrays(14))
    assert Samples(INPUTS, arrays(14), least=14).count == 14
    with pytest.raises(OptionError, match="must be at least 1, got 0"):
        Samples(INPUTS, arrays(14), least=0)


def test_samples_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "calib.npz"
    np.savez(path, **arrays(16))
    assert load_samples(path, INPUTS).sha256() == Samples(INPUTS, arrays(16)).sha256()
    with pytest.raises(DataError, match=re.escape(f"{path}: must hold at least 17 samples")):
        load_samples(path, INPUTS, least=17)
    with pytest.raises(DataError, match=r"must be a readable \.npz file"):
        load_samples(tmp_path / "absent.npz", INPUTS)
