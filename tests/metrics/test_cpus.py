from __future__ import annotations

import os

import pytest

from tvmopt.errors import OptionError
from tvmopt.metrics import cpus


def test_shares_are_disjoint_and_allowed() -> None:
    count = len(cpus.available())
    shares = cpus.shares(1, count)
    assert sorted(cpu for share in shares for cpu in share) == sorted(os.sched_getaffinity(0))


def test_cores_come_before_their_second_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(cpus, "_siblings", lambda cpu: "0-1" if cpu < 2 else "2-3")
    assert cpus.shares(2) == [[0, 2]]
    assert cpus.available() == [0, 2, 1, 3]


def test_more_threads_than_cpus_are_refused() -> None:
    count = len(cpus.available())
    with pytest.raises(OptionError, match=f"at most the {count} CPUs .* got {count + 1} threads$"):
        cpus.shares(count + 1)
    with pytest.raises(OptionError, match=f"got 1 threads x {count + 1} streams"):
        cpus.shares(1, count + 1)


@pytest.mark.parametrize(("threads", "streams"), [(0, 1), (1, 0), (-1, 1)])
def test_a_count_below_one_is_refused(threads: int, streams: int) -> None:
    with pytest.raises(OptionError, match="must be at least 1"):
        cpus.shares(threads, streams)


def test_pinning_ends_with_the_block() -> None:
    before = os.sched_getaffinity(0)
    with cpus.pinned(1):
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before
