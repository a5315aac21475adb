"""Compress a model in some ways, judge each artefact; ``__main__.py`` calls this in a process."""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.accuracy.contest import Race, make_rivals, race
from benchmarks.accuracy.methods import Method
from benchmarks.accuracy.own_recipes import rivals_of
from benchmarks.accuracy.task import Task
from benchmarks.accuracy.tasks import TASKS
from benchmarks.accuracy.verdict import Verdict
from benchmarks.children import one_line, serve
from benchmarks.compiled import Compiled, compile_model
from benchmarks.zoo.cache import FetchError
from tvmopt.errors import TvmoptError
from tvmopt.metrics.engines import EngineSpec
from tvmopt.metrics.turns import Schedule


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What to measure.

    Attributes:
        task: Its id.
        methods: In order; None is the float model itself.
        float_path: Where the float artefact is, or is to be put where a method is None.
        seconds: Timed seconds of each artefact; 0 times nothing.
        rounds: Turns in which they are spent.
    """

    task: str
    methods: tuple[Method | None, ...]
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
        rivals: Times beside rivals, where they were asked for.
    """

    reason: str = ""
    metric: str = ""
    verdict: Verdict | None = None
    size_bytes: int | None = None
    seconds: float | None = None
    speedup: tuple[float, float, float] | None = None
    least_speedup: float | None = None
    rivals: list[Race] = field(default_factory=list)


def measure(job: Job, folder: Path) -> list[Measurement]:
    """Return what can be said of each method; ``folder`` takes the artefacts."""
    try:
        task = TASKS[job.task]()
    except FetchError as err:
        return [Measurement(reason=f"skipped: {one_line(err)}") for _ in job.methods]
    return [_measure(task, method, job, folder) for method in job.methods]


def _measure(task: Task, method: Method | None, job: Job, folder: Path) -> Measurement:
    result = Measurement(metric=task.metric)
    try:
        start = time.perf_counter()
        made = _compile(task, method, folder)
        result.seconds, result.size_bytes = time.perf_counter() - start, made.size_bytes
        result.verdict = task.evaluate(made.path)
        if method is None:
            shutil.copyfile(made.path, job.float_path)
        elif job.seconds > 0:
            _time(result, task, method, made.path, job)
    except TvmoptError as err:
        # A recipe that was written for this row is gone when the row is read.
        result.reason = one_line(str(err).replace(f"{folder}/", ""))
    return result


def _compile(task: Task, method: Method | None, folder: Path) -> Compiled:
    shapes = dict(task.shapes)
    if method is None:
        return compile_model(task.path, shapes, folder)
    recipe = method.source(folder)
    return compile_model(task.path, shapes, folder, recipe=recipe, calibration=task.samples())


def _time(result: Measurement, task: Task, method: Method, path: Path, job: Job) -> None:
    """Fill in what says how fast the artefact is."""
    others = [("float32", EngineSpec(engine="tvmopt", path=Path(job.float_path)))]
    if method.beside_rivals:
        able, reasons = make_rivals(task, rivals_of(task.id))
        others += able
        result.reason = "; ".join(reasons)
    schedule = Schedule(seconds=job.seconds, rounds=job.rounds)
    own, *result.rivals = race(path, others, task.first(), schedule)
    result.speedup, result.least_speedup = own.ratio, own.least_ratio


def _answer(job: dict[str, Any]) -> dict[str, Any]:
    folder = Path(job.pop("folder"))
    methods = tuple(None if method is None else Method(**method) for method in job.pop("methods"))
    return {"rows": [asdict(found) for found in measure(Job(methods=methods, **job), folder)]}


if __name__ == "__main__":
    serve(_answer)
