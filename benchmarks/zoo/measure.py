"""Compile one model of the zoo, check it and time it; ``run.py`` calls this in a process.

The job is a ``TimedJob``'s fields, the answer a ``Measurement``'s.
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cases import Case, TimedJob, case_inputs
from benchmarks.children import one_line, serve
from benchmarks.compiled import compile_model
from benchmarks.zoo import double
from benchmarks.zoo.inputs import InputError
from benchmarks.zoo.verdict import Arrays, Verdict, judge
from tvmopt.errors import TvmoptError
from tvmopt.metrics import cpus
from tvmopt.metrics.engines import EngineSpec
from tvmopt.metrics.layer_times import layer_times
from tvmopt.metrics.turns import EngineResult, Schedule, compare

RIVAL = "onnxruntime"
MOST_RUNS = 300  # with each layer timed; fewer where they would take longer than the rivals' turns


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Latency at one number of threads.

    Attributes:
        threads: Of each engine.
        ours_ms: Median.
        rival_ms: Median.
        ratio: The rival's time over ours: the median of the rounds.
        q1: First quartile of the rounds.
        q3: Third quartile of the rounds.
    """

    threads: int
    ours_ms: float
    rival_ms: float
    ratio: float
    q1: float
    q3: float


@dataclass(kw_only=True, slots=True)
class Measurement:
    """What came of it, as far as it got.

    Attributes:
        status: ``"failed"`` until all of it has gone well.
        reason: Why it failed; or, where it did not, why an error above the tolerance is right.
        error: The largest of all outputs, as a share of the output's peak.
        compile_seconds: Loading, compiling and saving.
        size_bytes: Of the artefact.
        layers: Steps of the artefact.
        generated: Those with a generated kernel.
        predicted: Share of the time, one thread, of steps predicted within 30 % of theirs.
        timings: One for each number of threads.
        outputs: The verdict on each, at each number of threads.
    """

    status: str = "failed"
    reason: str = ""
    error: float | None = None
    compile_seconds: float | None = None
    size_bytes: int | None = None
    layers: int | None = None
    generated: int | None = None
    predicted: float | None = None
    timings: list[Timing] = field(default_factory=list)
    outputs: list[Verdict] = field(default_factory=list)


def measure(job: TimedJob, folder: Path) -> Measurement:
    """Return what can be said of ``job``; ``folder`` takes the artefact."""
    result = Measurement()
    try:
        artifact = _compile(job, folder, result)
        inputs = case_inputs(Case(id=job.id, shapes=dict(job.shapes)), Path(job.path))
        for threads in job.threads:
            _compare(job, artifact, inputs, threads, result)
        runs = int(job.seconds * 1e3 / result.timings[0].ours_ms)
        with cpus.pinned(1):
            profile = layer_times(artifact, inputs, runs=min(max(runs, 5), MOST_RUNS))
        result.predicted = profile.predicted_share
    except (TvmoptError, InputError) as err:
        result.reason = one_line(err)
        return result
    _conclude(result)
    return result


def _compile(job: TimedJob, folder: Path, result: Measurement) -> Path:
    compiled = compile_model(Path(job.path), job.shapes, folder)
    result.compile_seconds = compiled.seconds
    result.size_bytes = compiled.size_bytes
    result.layers, result.generated = compiled.layers, compiled.generated
    return compiled.path


def _compare(
    job: TimedJob, artifact: Path, inputs: Arrays, threads: int, result: Measurement
) -> None:
    model = Path(job.path)
    specs = [
        EngineSpec(engine="tvmopt", path=artifact),
        EngineSpec(engine=RIVAL, path=model),
    ]
    schedule = Schedule(seconds=job.seconds, rounds=job.rounds)
    ours, rival = compare(specs, inputs, threads=threads, schedule=schedule)
    reference = functools.partial(double.evaluate, model, inputs)
    result.outputs += judge(ours.outputs, rival.outputs, reference)
    result.timings.append(_timing(threads, ours, rival))


def _timing(threads: int, ours: EngineResult, rival: EngineResult) -> Timing:
    pairs = zip(rival.rounds, ours.rounds, strict=True)
    q1, middle, q3 = np.percentile([np.median(a) / np.median(b) for a, b in pairs], [25, 50, 75])
    return Timing(
        threads=threads,
        ours_ms=ours.latency.p50,
        rival_ms=rival.latency.p50,
        ratio=float(middle),
        q1=float(q1),
        q3=float(q3),
    )


def _conclude(result: Measurement) -> None:
    result.error = max((verdict.error for verdict in result.outputs), default=0.0)
    wrong = [verdict for verdict in result.outputs if not verdict.ok]
    result.status = "failed" if wrong else "ok"
    reasons = (f"{v.name}: {v.reason}" for v in wrong or result.outputs if v.reason)
    result.reason = "; ".join(dict.fromkeys(reasons))


def _answer(job: dict[str, Any]) -> dict[str, Any]:
    folder = Path(job.pop("folder"))
    shapes = {name: tuple(shape) for name, shape in job.pop("shapes").items()}
    return asdict(measure(TimedJob(shapes=shapes, **job), folder))


if __name__ == "__main__":
    serve(_answer)
