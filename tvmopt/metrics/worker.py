"""One engine in a process of its own: ``python -m tvmopt.metrics.worker``.

Speaks JSON, a line a message. The first line opens a model (``turns.py`` writes it), each further
one asks for a burst of runs; the end of the input ends the process.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG, linux/prctl.h


def time_runs(run: Callable[[], None], warm_seconds: float, seconds: float, most: int) -> list[int]:
    """Run untimed for ``warm_seconds``, then timed for ``seconds`` or ``most`` times.

    At least one run of each kind.

    Returns:
        The time of each timed run, nanoseconds.
    """
    clock = time.perf_counter_ns
    end = clock() + warm_seconds * 1e9  # float: seconds may be infinite
    run()
    while clock() < end:
        run()
    times: list[int] = []
    start = clock()
    end = start + seconds * 1e9
    while len(times) < most and (start < end or not times):
        run()
        now = clock()
        times.append(now - start)
        start = now
    return times


def _open(message: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    # Before the engines are imported: their thread pools look at the CPUs they find.
    os.sched_setaffinity(0, message["cpus"])
    import numpy as np

    from tvmopt.metrics.engines import EngineSpec
    from tvmopt.metrics.sessions import import_engine, open_session

    with np.load(message["inputs"], allow_pickle=False) as file:
        inputs = {name: file[f"arr_{i}"] for i, name in enumerate(message["names"])}
    spec = EngineSpec(engine=message["engine"], path=Path(message["path"]))
    import_engine(spec)
    start = time.perf_counter()
    session = open_session(spec, inputs, message["threads"])
    opened = time.perf_counter()
    session.run()
    first = time.perf_counter()
    outputs = session.outputs()
    if message["outputs"]:
        np.savez(message["outputs"], *outputs.values())
    reply = {
        "version": session.version,
        "load_seconds": opened - start,
        "first_seconds": first - opened,
        "outputs": list(outputs),
    }
    return session, reply


def _serve(requests: TextIO, replies: TextIO) -> None:
    def say(reply: dict[str, Any]) -> None:
        replies.write(json.dumps(reply) + "\n")
        replies.flush()

    try:
        session, reply = _open(json.loads(requests.readline()))
    # The parent repeats the message, whatever it was.
    except Exception as err:
        say({"error": type(err).__name__, "message": str(err)})
        return
    say(reply)
    for line in requests:
        burst = json.loads(line)
        try:
            times = time_runs(session.run, burst["warm_seconds"], burst["seconds"], burst["most"])
        except Exception as err:
            say({"error": type(err).__name__, "message": str(err)})
            return
        say({"nanoseconds": times})


def main() -> None:
    """Serve the parent process until it closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when a Ctrl-C ends us
    # A stopped process would outlive a killed parent for good.
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not mix with the replies
    _serve(sys.stdin, replies)


if __name__ == "__main__":
    main()
