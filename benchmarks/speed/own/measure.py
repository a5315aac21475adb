"""Compile one model with each recipe and time the artefacts; ``__main__.py`` calls this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import tvmopt
from benchmarks.cases import DEMO, Case, TimedJob, case_inputs
from benchmarks.children import one_line, serve
from benchmarks.zoo.inputs import InputError, make_inputs
from tvmopt.errors import TvmoptError
from tvmopt.metrics.engines import EngineSpec
from tvmopt.metrics.turns import EngineResult, Schedule, compare
from tvmopt.passes.prune.prune_options import PruneWeightsOptions
from tvmopt.recipe import Recipe

SAMPLES = 16  # of plausible inputs: they decide ranges, which take no time


@dataclass(frozen=True, kw_only=True, slots=True)
class Job(TimedJob):
    """What to measure.

    Attributes:
        recipes: Names of recipes that come with tvmopt.
    """

    recipes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """An artefact beside the one of floats, at one number of threads.

    Attributes:
        recipe: Of the artefact.
        threads: Of both.
        p50_ms: Its median.
        ratio: The median of the one of floats over that.
        q1: First quartile of the rounds' ratios.
        q3: Third quartile of them.
    """

    recipe: str
    threads: int
    p50_ms: float
    ratio: float
    q1: float
    q3: float


@dataclass(kw_only=True, slots=True)
class Measurement:
    """What came of it, as far as it got.

    Attributes:
        reasons: Why an artefact is missing, by recipe; ``""`` stands for the one of floats.
        changed: How many layers each recipe compressed, and how many there are.
        predicted: The predicted speed-up over the one of floats, by recipe.
        size_bytes: Of each artefact, by recipe; ``""`` stands for the one of floats.
        ratios: What was timed.
    """

    reasons: dict[str, str] = field(default_factory=dict)
    changed: dict[str, tuple[int, int]] = field(default_factory=dict)
    predicted: dict[str, float] = field(default_factory=dict)
    size_bytes: dict[str, int] = field(default_factory=dict)
    ratios: list[Ratio] = field(default_factory=list)


def measure(job: Job, folder: Path) -> Measurement:
    """Return what can be said of ``job``; ``folder`` takes the artefacts."""
    result = Measurement()
    try:
        model = tvmopt.load(job.path, job.shapes)
        specs = {"": _compile(model, folder, "float", result.size_bytes, "")}
        inputs = case_inputs(Case(id=job.id, shapes=dict(job.shapes)), Path(job.path))
    except (TvmoptError, InputError) as err:
        result.reasons[""] = one_line(err)
        return result
    samples = _samples(job)
    for name in job.recipes:
        try:
            small = model.apply(without_repairs(Recipe.named(name)), calibration=samples)
            specs[name] = _compile(small, folder, name, result.size_bytes, name)
        except TvmoptError as err:
            result.reasons[name] = one_line(err)
            continue
        said = small.compression
        assert said is not None, "it was applied"
        count = sum(layer.changed for layer in said.layers)
        result.changed[name] = count, len(said.layers)
        result.predicted[name] = said.cycles[0] / said.cycles[1]
    for threads in job.threads if len(specs) > 1 else ():
        schedule = Schedule(seconds=job.seconds, rounds=job.rounds)
        found = compare(list(specs.values()), inputs, threads=threads, schedule=schedule)
        result.ratios += summarize(threads, dict(zip(specs, found, strict=True)))
    return result


def without_repairs(recipe: Recipe) -> Recipe:
    """Return a recipe without the passes that repair, which makes its kernels sooner."""
    kept = [
        options
        for options, kind in zip(recipe.passes, recipe.kinds, strict=True)
        if kind.stage != "repair"
    ]
    passes = [
        replace(options, importance="magnitude", repair=False)
        if isinstance(options, PruneWeightsOptions)
        else options
        for options in kept
    ]
    return replace(recipe, passes=tuple(passes))


def summarize(threads: int, found: Mapping[str, EngineResult]) -> list[Ratio]:
    """Compare each artefact with the one of floats, whose name is ``""``."""
    floats = found[""]
    ratios = []
    for recipe, result in found.items():
        if recipe:
            faster = result.speedup_over(floats)
            ratios.append(
                Ratio(
                    recipe=recipe,
                    threads=threads,
                    p50_ms=result.latency.p50,
                    ratio=faster.ratio,
                    q1=faster.q1,
                    q3=faster.q3,
                )
            )
    return ratios


def _compile(
    model: tvmopt.Model, folder: Path, name: str, sizes: dict[str, int], key: str
) -> EngineSpec:
    path = tvmopt.compile(model, "native").save(folder / f"{name}.so")
    sizes[key] = path.stat().st_size
    return EngineSpec(engine="tvmopt", path=path)


def _samples(job: Job) -> dict[str, np.ndarray]:
    if job.id == DEMO:
        shapes = {name: (SAMPLES, *shape[1:]) for name, shape in job.shapes.items()}
        return case_inputs(Case(id=job.id, shapes=shapes), Path(job.path))
    feeds = [make_inputs(Path(job.path), job.shapes, seed=1 + i) for i in range(SAMPLES)]
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}


def _answer(job: dict[str, Any]) -> dict[str, Any]:
    folder = Path(job.pop("folder"))
    shapes = {name: tuple(shape) for name, shape in job.pop("shapes").items()}
    return asdict(measure(Job(shapes=shapes, **job), folder))


if __name__ == "__main__":
    serve(_answer)
