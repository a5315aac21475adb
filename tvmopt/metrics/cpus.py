"""Choose the CPUs that a measurement runs on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tvmopt.errors import OptionError

_TOPOLOGY = Path("/sys/devices/system/cpu")


def available() -> list[int]:
    """Return the CPUs this process may use, one of each core before any second of one.

    Two hardware threads of one core share its units, so a measurement wants cores first.
    """
    seen: dict[str, int] = {}
    order = []
    for cpu in sorted(os.sched_getaffinity(0)):
        core = _siblings(cpu)
        order.append((seen.get(core, 0), cpu))
        seen[core] = seen.get(core, 0) + 1
    return [cpu for _, cpu in sorted(order)]


def _siblings(cpu: int) -> str:
    try:
        return (_TOPOLOGY / f"cpu{cpu}/topology/thread_siblings_list").read_text().strip()
    except OSError:  # some containers hide it
        return str(cpu)


def shares(threads: int, streams: int = 1) -> list[list[int]]:
    """Return ``streams`` disjoint lists of ``threads`` CPUs.

    Raises:
        OptionError: A count is below 1, or there are fewer CPUs; results with threads that wait
            for a CPU would say nothing about an engine.
    """
    if threads < 1 or streams < 1:
        raise OptionError(
            f"threads and streams must be at least 1, got {threads} threads and {streams} streams"
        )
    cpus = available()
    if threads * streams > len(cpus):
        times = f" x {streams} streams" if streams > 1 else ""
        raise OptionError(
            f"threads must be at most the {len(cpus)} CPUs that this process may use, "
            f"got {threads} threads{times}"
        )
    return [cpus[i * threads : (i + 1) * threads] for i in range(streams)]


@contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Keep this thread, and those it starts, on ``threads`` CPUs for a while.

    Raises:
        OptionError: As ``shares``.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, shares(threads)[0])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
