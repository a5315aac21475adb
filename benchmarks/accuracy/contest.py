"""Time an artefact beside our float one and beside rivals, each in its own process, in turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.accuracy.task import Task
from benchmarks.children import one_line
from benchmarks.speed.compressed import rivals
from benchmarks.speed.compressed.rivals import Variant
from tvmopt.metrics.engines import EngineSpec
from tvmopt.metrics.turns import Schedule, compare

CALIBRATION_SAMPLES = 32

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True, slots=True)
class Race:
    """An artefact's times beside another's.

    Attributes:
        title: The other one.
        p50_ms: Medians: the artefact's and the other's.
        ratio: Of the other's median to the artefact's, and the quartiles of the rounds.
        least_ratio: Of least times, which other work on the machine disturbs less.
    """

    title: str
    p50_ms: tuple[float, float]
    ratio: tuple[float, float, float]
    least_ratio: float


def race(
    artefact: Path, others: Sequence[tuple[str, EngineSpec]], inputs: Arrays, schedule: Schedule
) -> list[Race]:
    """Return the artefact's times beside those of others, by title."""
    specs = [EngineSpec(engine="tvmopt", path=artefact), *(spec for _, spec in others)]
    ours, *theirs = compare(specs, inputs, schedule=schedule)
    races = []
    for (title, _), result in zip(others, theirs, strict=True):
        found = ours.speedup_over(result)
        races.append(
            Race(
                title=title,
                p50_ms=(ours.latency.p50, result.latency.p50),
                ratio=(found.ratio, found.q1, found.q3),
                least_ratio=result.latency.least / ours.latency.least,
            )
        )
    return races


def make_rivals(
    task: Task, variants: Sequence[Variant]
) -> tuple[list[tuple[str, EngineSpec]], list[str]]:
    """Return the rivals that run the model, by title, and why the others do not."""
    able, reasons = [], []
    arrays = task.samples(CALIBRATION_SAMPLES)
    feeds = [{k: a[i : i + 1] for k, a in arrays.items()} for i in range(CALIBRATION_SAMPLES)]
    for variant in variants:
        try:
            made = rivals.make(variant.kind, task.path, task.shapes, feeds)
            spec = EngineSpec(engine=variant.engine, path=made)
            compare([spec], task.first(), schedule=Schedule(repeat=1, rounds=1))
            able.append((variant.title, spec))
        # Their tools raise whatever they like.
        except Exception as err:
            reasons.append(f"{variant.title}: {one_line(err)}")
    return able, reasons
