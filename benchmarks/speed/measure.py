"""Compile one model and time it beside its rivals; ``__main__.py`` calls this in a process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.cases import Case, TimedJob, case_inputs
from benchmarks.children import one_line, serve
from benchmarks.compiled import compile_model
from benchmarks.zoo.inputs import InputError
from benchmarks.zoo.verdict import Arrays
from tvmopt.errors import TvmoptError
from tvmopt.metrics.engines import TITLES, EngineSpec
from tvmopt.metrics.turns import EngineResult, Schedule, compare


@dataclass(frozen=True, kw_only=True, slots=True)
class Job(TimedJob):
    """What to measure.

    Attributes:
        rivals: Engines to compare with.
    """

    rivals: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Latency at one number of threads.

    Attributes:
        threads: Of each engine.
        p50_ms: Median by engine.
        best: The fastest rival.
        ratio: Its median over ours.
        q1: First quartile of the rounds' ratios.
        q3: Third quartile of them.
    """

    threads: int
    p50_ms: Mapping[str, float]
    best: str
    ratio: float
    q1: float
    q3: float


@dataclass(kw_only=True, slots=True)
class Measurement:
    """What came of it, as far as it got.

    Attributes:
        reason: Why something is missing; empty if nothing is.
        compile_seconds: Loading, compiling and saving.
        timings: One for each number of threads.
    """

    reason: str = ""
    compile_seconds: float | None = None
    timings: list[Timing] = field(default_factory=list)


def measure(job: Job, folder: Path) -> Measurement:
    """Return what can be said of ``job``; ``folder`` takes the artefact."""
    result = Measurement()
    try:
        compiled = compile_model(Path(job.path), job.shapes, folder)
        result.compile_seconds = compiled.seconds
        inputs = case_inputs(Case(id=job.id, shapes=dict(job.shapes)), Path(job.path))
        ours = EngineSpec(engine="tvmopt", path=compiled.path)
        rivals, result.reason = willing(job, inputs)
        for threads in job.threads if rivals else ():
            result.timings.append(_time(job, [ours, *rivals], inputs, threads))
    except (TvmoptError, InputError) as err:
        result.reason = one_line(err)
    return result


def willing(job: Job, inputs: Arrays) -> tuple[list[EngineSpec], str]:
    """Return the rivals that run the model, and why the others do not."""
    specs = [EngineSpec(engine=rival, path=Path(job.path)) for rival in job.rivals]
    once = Schedule(repeat=1, rounds=1)
    able, reasons = [], []
    for spec in specs:
        try:
            compare([spec], inputs, schedule=once)
            able.append(spec)
        except TvmoptError as err:
            reasons.append(one_line(err))
    return able, "; ".join(reasons)


def summarize(threads: int, ours: EngineResult, rivals: Sequence[EngineResult]) -> Timing:
    """Compare with the rival of the least median; at least one."""
    best = min(rivals, key=lambda rival: rival.latency.p50)
    speedup = ours.speedup_over(best)
    return Timing(
        threads=threads,
        p50_ms={result.spec.engine: result.latency.p50 for result in (ours, *rivals)},
        best=TITLES[best.spec.engine],
        ratio=speedup.ratio,
        q1=speedup.q1,
        q3=speedup.q3,
    )


def _time(job: Job, specs: Sequence[EngineSpec], inputs: Arrays, threads: int) -> Timing:
    schedule = Schedule(seconds=job.seconds, rounds=job.rounds)
    ours, *rivals = compare(specs, inputs, threads=threads, schedule=schedule)
    return summarize(threads, ours, rivals)


def _answer(job: dict[str, Any]) -> dict[str, Any]:
    folder = Path(job.pop("folder"))
    shapes = {name: tuple(shape) for name, shape in job.pop("shapes").items()}
    return asdict(measure(Job(shapes=shapes, **job), folder))


if __name__ == "__main__":
    serve(_answer)
