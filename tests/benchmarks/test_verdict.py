"""When outputs agree, and when float64 has to say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.zoo.verdict import Arrays, NoReferenceError, judge, relative_error


def never() -> Arrays:
    raise AssertionError("the reference is slow: it must not be asked for")


def exactly(values: list[float]) -> Callable[[], Arrays]:
    return lambda: {"y": np.array(values)}


def y(*values: float) -> Arrays:
    return {"y": np.array(values, np.float32)}


def test_small_differences_are_right_without_a_reference() -> None:
    (verdict,) = judge(y(10.0005, 1.0), y(10.0, 1.0), never)
    assert verdict.ok
    assert verdict.error == pytest.approx(5e-5, rel=1e-2)  # of the peak, not of the element


def test_each_output_is_compared_by_name() -> None:
    a, b = np.array([1.0], np.float32), np.array([2.0], np.float32)
    assert all(v.ok for v in judge({"a": a, "b": b}, {"b": b, "a": a}, never))
    assert not any(
        v.ok for v in judge({"a": b, "b": a}, {"a": a, "b": b}, lambda: {"a": a, "b": b})
    )


@pytest.mark.parametrize(
    ("ours", "right"),
    [(1.001, True), (1.0019, True), (1.0021, False), (0.9981, True), (0.9979, False)],
)
def test_at_most_twice_as_far_from_float64_as_the_rival(ours: float, right: bool) -> None:
    # The rival is 1e-3 from 1 on one side; float32 rounds by 6e-8, far below what is asked here.
    (verdict,) = judge(y(ours), y(0.999), exactly([1.0]))
    assert verdict.ok is right
    assert "from float64: tvmopt" in verdict.reason


def test_a_reference_far_from_both_excuses_nothing() -> None:
    (verdict,) = judge(y(1.001), y(1.0), exactly([3.0]))
    assert not verdict.ok
    assert "it contradicts both" in verdict.reason


def test_without_a_reference_a_large_error_is_wrong() -> None:
    def refuse() -> Arrays:
        raise NoReferenceError("no such operator")

    (verdict,) = judge(y(1.01), y(1.0), refuse)
    assert not verdict.ok
    assert verdict.reason == "error 1.0e-02 of the peak, above 1e-04, and no float64 result: " + (
        "no such operator"
    )


def test_the_reference_is_evaluated_once() -> None:
    calls = []

    def reference() -> Arrays:
        calls.append(1)
        return {"a": np.array([1.0]), "b": np.array([1.0])}

    ours = {name: np.array([1.01], np.float32) for name in "ab"}
    rival = {name: np.array([1.0], np.float32) for name in "ab"}
    assert not any(verdict.ok for verdict in judge(ours, rival, reference))
    assert len(calls) == 1


def test_integers_must_be_equal() -> None:
    rival = np.array([1_000_000, 2])
    (verdict,) = judge({"y": np.array([1_000_001, 2])}, {"y": rival}, never)
    assert not verdict.ok
    assert verdict.reason == "1 of 2 integers differ"
    assert judge({"y": rival}, {"y": rival.copy()}, never)[0].ok


def test_a_missing_or_extra_or_other_kind_of_output_is_wrong() -> None:
    one = np.ones((1, 2), np.float32)
    reasons = [
        verdict.reason
        for verdict in judge(
            {"a": one, "b": one[0], "d": one}, {"a": one.astype(float), "b": one, "c": one}, never
        )
        if not verdict.ok
    ]
    assert reasons == [
        "must be float64 (1, 2), got float32 (1, 2)",
        "must be float32 (1, 2), got float32 (2,)",
        "tvmopt has no such output",
        "ONNX Runtime has no such output",
    ]


@pytest.mark.parametrize(
    ("values", "reference", "error"),
    [
        ([np.nan, 1], [np.nan, 1], 0.0),
        ([np.inf, 1], [np.inf, 1], 0.0),
        ([-np.inf, 1], [np.inf, 1], np.inf),
        ([np.nan, 1], [0, 1], np.inf),
        ([0, 1], [np.nan, 1], np.inf),
        ([0, 0], [0, 0], 0.0),
        ([0, 1e-9], [0, 0], np.inf),
        ([], [], 0.0),
    ],
)
def test_errors_at_the_edges(values: list[float], reference: list[float], error: float) -> None:
    assert relative_error(np.array(values), np.array(reference)) == error


def test_nothing_but_nans_is_wrong() -> None:
    (verdict,) = judge(y(np.nan), y(1.0), exactly([1.0]))
    assert not verdict.ok
