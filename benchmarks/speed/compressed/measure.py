"""Compress one model, time it beside its rivals; ``run.py`` calls this in a process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.tasks import TASKS
from benchmarks.cases import Case, case_inputs, locate
from benchmarks.children import one_line, serve
from benchmarks.compiled import compile_model
from benchmarks.speed.compressed import layers, rivals, sparse_layers
from benchmarks.speed.compressed.rivals import Variant
from benchmarks.speed.compressed.works import WORKS, Work
from benchmarks.zoo.catalogue import load_catalogue
from benchmarks.zoo.inputs import make_inputs
from tvmopt.errors import TvmoptError
from tvmopt.metrics.closeness import closeness
from tvmopt.metrics.engines import EngineSpec
from tvmopt.metrics.turns import EngineResult, Schedule, compare

CALIBRATION_SAMPLES = 32
LAYER_SEED = 0

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What to measure: a work of ``WORKS`` by id, and how long."""

    id: str
    threads: tuple[int, ...]
    seconds: float
    rounds: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """One engine's model at one number of threads.

    Attributes:
        engine: ``"tvmopt"`` or a rival.
        kind: How the model was made; for ours the recipe, or ``"float"``.
        title: The same for a table.
        p50_ms: Median.
        ratio: Median over that of our compressed artefact: above 1, ours is faster.
        q1: First quartile of the rounds' ratios.
        q3: Third quartile of them.
        cosine: Of the first output to that of the float model, in the same engine if it runs there;
            None if it runs nowhere.
    """

    engine: str
    kind: str
    title: str
    p50_ms: float
    ratio: float
    q1: float
    q3: float
    cosine: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """All engines at one number of threads, ours compressed first."""

    threads: int
    speeds: tuple[Speed, ...]


@dataclass(kw_only=True, slots=True)
class Measurement:
    """What came of it, as far as it got.

    Attributes:
        reason: Why something is missing; empty if nothing is.
        weights: ``"random"`` where only the speed of the model means anything.
        size_bytes: Of our compressed artefact and of our float one.
        onnx_bytes: Of the ONNX file.
        timings: One for each number of threads.
    """

    reason: str = ""
    weights: str = "trained"
    size_bytes: tuple[int | None, int | None] = (None, None)
    onnx_bytes: int | None = None
    timings: list[Timing] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class Contestant:
    """A model in an engine.

    Attributes:
        spec: The engine and its file.
        kind: As in ``Speed``, and so the title.
        title: See there.
        inputs: What it is fed; None for what the others are fed.
    """

    spec: EngineSpec
    kind: str
    title: str
    inputs: Arrays | None = None


def measure(work: Work, job: Job, folder: Path) -> Measurement:
    """Return what can be said of ``work``; ``folder`` takes the artefacts."""
    result = Measurement(weights=_weights(work))
    reasons: list[str] = []
    path, shapes = _model(work)
    inputs = _inputs(work, path, shapes, 1, seed=0)[0]
    feeds = _inputs(work, path, shapes, CALIBRATION_SAMPLES, seed=1)
    ours = _ours(work, path, shapes, feeds, folder, reasons)
    theirs = _theirs(work, path, shapes, feeds, inputs, reasons)
    if ours and theirs:
        result.size_bytes, result.onnx_bytes = _sizes(ours), path.stat().st_size
        for threads in job.threads:
            schedule = Schedule(seconds=job.seconds, rounds=job.rounds)
            every = [*ours, *theirs]
            fed = [c.inputs or inputs for c in every]
            found = compare([c.spec for c in every], fed, threads=threads, schedule=schedule)
            result.timings.append(summarize(threads, every, found))
    result.reason = "; ".join(reasons)
    return result


def summarize(
    threads: int, contestants: Sequence[Contestant], results: Sequence[EngineResult]
) -> Timing:
    """Compare all with the first, our compressed artefact."""
    first = results[0]
    floats = {
        c.spec.engine: r.outputs
        for c, r in zip(contestants, results, strict=True)
        if c.kind == "float"
    }
    anybody = next(iter(floats.values()), None)
    speeds = []
    for contestant, found in zip(contestants, results, strict=True):
        ratio = first.speedup_over(found)
        speeds.append(
            Speed(
                engine=contestant.spec.engine,
                kind=contestant.kind,
                title=contestant.title,
                p50_ms=found.latency.p50,
                ratio=ratio.ratio,
                q1=ratio.q1,
                q3=ratio.q3,
                cosine=None
                if contestant.kind == "twin"  # it has its channels elsewhere
                else _cosine(found.outputs, floats.get(contestant.spec.engine, anybody)),
            )
        )
    return Timing(threads=threads, speeds=tuple(speeds))


def _cosine(
    outputs: Mapping[str, np.ndarray], floats: Mapping[str, np.ndarray] | None
) -> float | None:
    if floats is None:
        return None
    ours, theirs = next(iter(outputs.values())), next(iter(floats.values()))
    return closeness(ours.reshape(1, -1), theirs.reshape(1, -1)).cosine


def _model(work: Work) -> tuple[Path, dict[str, tuple[int, ...]]]:
    if layers.is_layer(work.id):
        return layers.make_layer(work.id), layers.layer_shapes(work.id)
    found = locate(work.model_id)
    if found.path is None:
        raise TvmoptError(f"skipped: {found.reason}")
    return found.path, dict(load_catalogue()[work.model_id].shapes[work.size])


def _weights(work: Work) -> str:
    random = layers.is_layer(work.id) or work.synthetic
    return "random" if random else load_catalogue()[work.model_id].weights


def _inputs(
    work: Work, path: Path, shapes: dict[str, tuple[int, ...]], count: int, seed: int
) -> list[Arrays]:
    """Return feeds: of the task if the work is calibrated on one, else plausible ones."""
    if sparse := sparse_layers.parse(work.id):
        return [sparse_layers.inputs(sparse)] * count
    if layers.is_layer(work.id):
        rng = np.random.default_rng(LAYER_SEED)
        shape = shapes["x"]
        if work.recipe is None:
            return [{"x": rng.integers(0, 256, shape).astype(np.uint8)} for _ in range(count)]
        return [{"x": rng.normal(size=shape).astype(np.float32)} for _ in range(count)]
    if work.calibration == "task":
        task = TASKS[work.model_id]()
        arrays = task.samples(count)
        return [{k: a[i : i + 1] for k, a in arrays.items()} for i in range(count)]
    if count == 1:
        return [case_inputs(Case(id=work.model_id, shapes=shapes), path)]
    return [make_inputs(path, shapes, seed + i) for i in range(count)]


def _ours(
    work: Work,
    path: Path,
    shapes: dict[str, tuple[int, ...]],
    feeds: list[Arrays],
    folder: Path,
    reasons: list[str],
) -> list[Contestant]:
    """Return our compressed artefact and, of a float model, our float one."""
    if work.recipe is None:
        made = compile_model(path, shapes, folder)
        return [_contestant(made.path, "quantized", "tvmopt, as it is")]
    samples = None
    if work.calibration != "none":
        samples = {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
    small = compile_model(path, shapes, folder, recipe=work.recipe_file, calibration=samples)
    found = [_contestant(small.path, work.recipe, f"tvmopt {work.recipe}")]
    try:
        large = compile_model(path, shapes, folder)
        found.append(_contestant(large.path, "float", "tvmopt float32"))
    except TvmoptError as err:
        reasons.append(one_line(err))
    return found


def _contestant(path: Path, kind: str, title: str) -> Contestant:
    return Contestant(spec=EngineSpec(engine="tvmopt", path=path), kind=kind, title=title)


def _sizes(ours: Sequence[Contestant]) -> tuple[int | None, int | None]:
    sizes = [c.spec.path.stat().st_size for c in ours]
    return sizes[0], sizes[1] if len(sizes) > 1 else None


def _theirs(
    work: Work,
    path: Path,
    shapes: dict[str, tuple[int, ...]],
    feeds: list[Arrays],
    inputs: Arrays,
    reasons: list[str],
) -> list[Contestant]:
    """Return the rivals that run; of the others, the reason."""
    found = []
    for variant in work.variants:
        try:
            made, fed = _rival(variant, work, path, shapes, feeds)
            spec = EngineSpec(engine=variant.engine, path=made)
            if spec.installed:
                compare([spec], fed or inputs, schedule=Schedule(repeat=1, rounds=1))
                found.append(
                    Contestant(spec=spec, kind=variant.kind, title=variant.title, inputs=fed)
                )
        # Their tools raise whatever they like.
        except Exception as err:
            reasons.append(f"{variant.title}: {one_line(err)}")
    return found


def _rival(
    variant: Variant,
    work: Work,
    path: Path,
    shapes: dict[str, tuple[int, ...]],
    feeds: list[Arrays],
) -> tuple[Path, Arrays | None]:
    """Return a rival's file, and what it is fed where that is something of its own."""
    sparse = sparse_layers.parse(work.id)
    if variant.kind == "twin" and sparse is not None:
        return sparse_layers.make_twin(sparse), sparse_layers.twin_inputs(sparse)
    return rivals.make(variant.kind, path, shapes, feeds), None


def _answer(job: dict[str, Any]) -> dict[str, Any]:
    folder = Path(job.pop("folder"))
    given = Job(**job)
    work = next(work for work in WORKS if work.id == given.id)
    try:
        return asdict(measure(work, given, folder))
    except TvmoptError as err:
        return asdict(Measurement(reason=one_line(err), weights=_weights(work)))


if __name__ == "__main__":
    serve(_answer)
