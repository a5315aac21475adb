"""Compress one model in one way and judge the artefact; ``__main__.py`` calls this in a process."""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.accuracy.methods import Method
from benchmarks.accuracy.task import Task
from benchmarks.accuracy.tasks import TASKS
from benchmarks.accuracy.verdict import Verdict
from benchmarks.children import one_line, serve
from benchmarks.compiled import Compiled, compile_model
from benchmarks.zoo.cache import FetchError
from tvmopt.errors import TvmoptError
from tvmopt.metrics.engines import EngineSpec
from tvmopt.metrics.turns import Schedule, compare


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What to measure.

    Attributes:
        task: Its id.
        method: None for the float model itself.
        float_path: Where the float artefact is, or is to be put where ``method`` is None.
        seconds: Timed seconds of each artefact; 0 times nothing.
        rounds: Turns in which they are spent.
    """

    task: str
    method: Method | None
    float_path: str
    seconds: float
    rounds: int


@dataclass(kw_only=True, slots=True)
class Measurement:
    """What came of it, as far as it got.

    Attributes:
        reason: Why something is missing; empty if nothing is.
        metric: What is right.
        verdict: On the artefact.
        size_bytes: Of the artefact.
        seconds: Compressing and compiling.
        speedup: The float artefact's median over this one's, and its quartiles.
        least_speedup: The float artefact's least time over this one's, which other work on the
            machine disturbs less.
    """

    reason: str = ""
    metric: str = ""
    verdict: Verdict | None = None
    size_bytes: int | None = None
    seconds: float | None = None
    speedup: tuple[float, float, float] | None = None
    least_speedup: float | None = None


def measure(job: Job, folder: Path) -> Measurement:
    """Return what can be said of ``job``; ``folder`` takes the artefact."""
    result = Measurement()
    try:
        task = TASKS[job.task]()
        result.metric = task.metric
        start = time.perf_counter()
        made = _compile(task, job, folder)
        result.seconds, result.size_bytes = time.perf_counter() - start, made.size_bytes
        result.verdict = task.evaluate(made.path)
        if job.method is None:
            shutil.copyfile(made.path, job.float_path)
        elif job.seconds > 0:
            result.speedup, result.least_speedup = _speedups(
                task, made.path, Path(job.float_path), job
            )
    except FetchError as err:
        result.reason = f"skipped: {one_line(err)}"
    except TvmoptError as err:
        # A recipe that was written for this row is gone when the row is read.
        result.reason = one_line(str(err).replace(f"{folder}/", ""))
    return result


def _compile(task: Task, job: Job, folder: Path) -> Compiled:
    shapes = dict(task.shapes)
    if job.method is None:
        return compile_model(task.path, shapes, folder)
    recipe = job.method.source(folder)
    return compile_model(task.path, shapes, folder, recipe=recipe, calibration=task.samples())


def _speedups(
    task: Task, ours: Path, old: Path, job: Job
) -> tuple[tuple[float, float, float], float]:
    specs = [EngineSpec(engine="tvmopt", path=path) for path in (ours, old)]
    schedule = Schedule(seconds=job.seconds, rounds=job.rounds)
    new, before = compare(specs, task.first(), schedule=schedule)
    found = new.speedup_over(before)
    return (found.ratio, found.q1, found.q3), before.latency.least / new.latency.least


def _answer(job: dict[str, Any]) -> dict[str, Any]:
    folder = Path(job.pop("folder"))
    method = job.pop("method")
    given = Job(method=None if method is None else Method(**method), **job)
    return asdict(measure(given, folder))


if __name__ == "__main__":
    serve(_answer)
