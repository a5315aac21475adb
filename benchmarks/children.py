"""Run one measurement in a process of its own, so that a crash or a hang ends only that one.

The parent calls ``call`` with the name of a module; that module's ``main`` calls ``serve``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 300  # characters of a reason that still fit into a table


class ChildError(Exception):
    """A measurement gave no answer; the message is one line that says why."""


def call(module: str, job: Mapping[str, Any], limit_seconds: float) -> dict[str, Any]:
    """Run ``python -m module`` and return its answer to ``job``.

    Args:
        module: Of this repository; it serves one job.
        job: What JSON can hold. The child gets it with ``"folder"`` added: an empty folder that
            goes, with all temporary files, when the child has ended.
        limit_seconds: After so long the child and all its children are killed.

    Raises:
        ChildError: It crashed, or took too long.
    """
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        answer, log = Path(folder, "answer.json"), Path(folder, "log")
        work = Path(folder, "work")
        work.mkdir()
        with log.open("wb") as output:
            status = _run(module, {**job, "folder": str(work)}, answer, output, limit_seconds)
        if status is None:
            raise ChildError(f"took longer than {limit_seconds:g} s")
        if status != 0 or not answer.exists():
            raise ChildError(_death(status, log))
        return dict(json.loads(answer.read_text(encoding="utf-8")))


def end_on_terminate() -> None:
    """Let SIGTERM, which a CI job gets that takes too long, end children as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def serve(measure: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    """Answer the one job on stdin with what ``measure`` makes of it."""
    answer = Path(sys.argv[1])
    result = measure(json.load(sys.stdin))
    answer.write_text(json.dumps(result), encoding="utf-8")


def one_line(message: object) -> str:
    """Return a message as one line that still fits into a table; rivals send paragraphs."""
    text = " ".join(str(message).split())
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def _run(
    module: str, job: Mapping[str, Any], answer: Path, output: Any, limit_seconds: float
) -> int | None:
    child = subprocess.Popen(
        [sys.executable, "-m", module, str(answer)],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=output,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(job["folder"])},
        start_new_session=True,  # a group of its own, to be killed whole
    )
    try:
        child.communicate(json.dumps(job).encode(), timeout=limit_seconds)
        return child.returncode
    except subprocess.TimeoutExpired:
        return None
    finally:  # also on Ctrl-C, which such a group does not get
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _death(status: int, log: Path) -> str:
    how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exited {status}"
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return one_line(f"{how}: {lines[-1]}" if lines else how)
