"""Percentiles, speed-ups, and how runs are counted; no clock's value is looked at."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tvmopt.errors import OptionError
from tvmopt.metrics.latency_ms import latency_ms
from tvmopt.metrics.speedup import speedup
from tvmopt.metrics.turns import Schedule
from tvmopt.metrics.worker import time_runs


def test_percentiles_are_in_milliseconds() -> None:
    found = latency_ms(np.linspace(0.0, 0.1, 101))
    assert found.p50 == pytest.approx(50)
    assert found.p90 == pytest.approx(90)
    assert found.p99 == pytest.approx(99)
    assert (found.least, found.runs) == (0.0, 101)


def test_speedup_is_old_over_new() -> None:
    old = [np.array([2.0, 2.0, 9.0]), np.array([4.0])]
    new = [np.array([1.0]), np.array([1.0])]
    found = speedup(old, new)
    assert found.ratio == 3.0  # the median of 2, 2, 4, 9
    assert (found.least, found.most) == (2.0, 4.0)
    assert (found.q1, found.q3) == (2.5, 3.5)


def test_speedup_over_oneself_is_one() -> None:
    rounds = [np.array([1.0, 3.0]), np.array([2.0])]
    found = speedup(rounds, rounds)
    assert (found.ratio, found.q1, found.q3, found.least, found.most) == (1.0,) * 5


def test_repeat_is_shared_out_among_rounds() -> None:
    schedule = Schedule(repeat=23, rounds=10)
    assert sum(schedule.burst(turn).most for turn in range(schedule.turns)) == 23


def test_there_are_no_rounds_without_a_run() -> None:
    schedule = Schedule(repeat=3, rounds=10)
    assert schedule.turns == 3
    assert [schedule.burst(turn).most for turn in range(3)] == [1, 1, 1]


def test_seconds_are_shared_out_among_rounds() -> None:
    burst = Schedule(seconds=5.0, rounds=10, warm_share=0.2).burst(0)
    assert (burst.seconds, burst.warm_seconds) == (0.5, pytest.approx(0.1))


@pytest.mark.parametrize(
    ("option", "value"),
    [("seconds", 0.0), ("seconds", math.nan), ("seconds", math.inf), ("repeat", 0), ("rounds", 0)],
)
def test_a_schedule_must_time_something(option: str, value: float) -> None:
    with pytest.raises(OptionError, match=f"{option} must be .*, got {value}"):
        Schedule(**{option: value})


def test_runs_are_warmed_up_once_and_timed_as_often_as_asked() -> None:
    calls = []
    times = time_runs(lambda: calls.append(1), 0.0, math.inf, 7)
    assert (len(times), len(calls)) == (7, 8)
    assert all(time >= 0 for time in times)


def test_at_least_one_run_is_timed() -> None:
    assert len(time_runs(lambda: None, 0.0, 0.0, 5)) == 1
