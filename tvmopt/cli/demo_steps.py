"""The demo's work: compile, judge, time and profile the embedded model."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tvmopt import samples
from tvmopt.cli import show
from tvmopt.cli.demo_compressed import (
    artefact,
    compile_compressed,
    describe_compressed,
)
from tvmopt.cli.files import check_writable
from tvmopt.cli.layers import describe_profile
from tvmopt.cli.timings import describe_timings
from tvmopt.errors import ArtifactError, OptionError
from tvmopt.metrics import cpus
from tvmopt.metrics.engines import PACKAGES, RIVALS, EngineSpec
from tvmopt.metrics.evaluation import LABELS, Evaluation, evaluate
from tvmopt.metrics.inputs import input_infos
from tvmopt.metrics.layer_times import layer_times
from tvmopt.metrics.prediction import outputs_of
from tvmopt.metrics.turns import Schedule, compare

if TYPE_CHECKING:
    from tvmopt import Model

DATA = resources.files("tvmopt.demo_data")
MODEL, TEST, CLASSES = "fashion_mnist.onnx", "fashion_mnist_test.npz", "classes.json"
CALIBRATION = "fashion_mnist_calibration.npz"
BATCH_1 = (1, 1, 28, 28)


def run_demo(
    output: Path,
    *,
    recipes: Sequence[str],
    threads: int,
    target: str,
    seconds: float,
    quiet: bool,
) -> dict[str, Any]:
    """Compile the embedded model into ``output`` and return all that was measured of it.

    Raises:
        TvmoptError: The folder cannot be written, the target is none of this machine, or there
            are too few CPUs.
    """
    schedule = Schedule(seconds=seconds)
    cpus.shares(threads)
    path = _prepare(output, recipes) / "model.so"
    with resources.as_file(DATA) as data:
        model, compiled = _compile(data / MODEL, path, target, quiet=quiet)
        made = [
            compile_compressed(
                model, name, data / CALIBRATION, target, artefact(output, name), quiet=quiet
            )
            for name in recipes
        ]
        plain = [EngineSpec(engine="tvmopt", path=path)]
        plain += [EngineSpec(engine=name, path=data / MODEL) for name in RIVALS]
        plain = [spec for spec in plain if spec.installed]
        specs = plain + [EngineSpec(engine="tvmopt", path=artefact(output, n)) for n in recipes]
        arrays = samples.load_npz(data / TEST)
        judged = _judge(specs, arrays, threads, quiet=quiet)
        image = {name: array[:1] for name, array in arrays.items() if name != LABELS}
        with show.progress("timing, in turns", quiet=quiet) as step:
            results = compare(specs, image, threads=threads, schedule=schedule, progress=step)
        quality = [_quality(*one) for one in zip(plain, judged, strict=False)]
        timed, smaller = results[: len(plain)], results[len(plain) :]
        with show.spinner("profiling", quiet=quiet), cpus.pinned(threads):
            profile = layer_times(path, image, threads=threads)
    return {
        "output": str(output),
        "compiled": compiled,
        "quality": quality,
        "timing": describe_timings(timed, "the first test image"),
        "compressed": [
            describe_compressed(*one, timed)
            for one in zip(made, judged[len(plain) :], smaller, strict=True)
        ],
        "profile": describe_profile(profile, "the first test image"),
        "classes": json.loads((DATA / CLASSES).read_text()),
        "not_installed": [name for name in RIVALS if not _spec(name).installed],
    }


def _spec(engine: str) -> EngineSpec:
    return EngineSpec(engine=engine, path=Path(MODEL))


def _prepare(output: Path, recipes: Sequence[str]) -> Path:
    import tvmopt

    for name in recipes:
        tvmopt.Recipe.named(name)
    if len(set(recipes)) != len(recipes):
        raise OptionError(f"--recipe must name each recipe once, got {', '.join(recipes)}")
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise ArtifactError(f"{output}: must be a folder to write to: {err.strerror}") from err
    artefacts = [output / "model.so", *(artefact(output, name) for name in recipes)]
    for path in (*artefacts, output / "model.h", output / "report.html"):
        check_writable(path)
    return output


def _compile(file: Path, path: Path, target: str, *, quiet: bool) -> tuple[Model, dict[str, Any]]:
    """Return the model as loaded, and what is told of its artefact."""
    start = time.perf_counter()
    with show.spinner(f"compiling {file.name} for {target}", quiet=quiet):
        import tvmopt

        model = tvmopt.load(file, {"image": BATCH_1})
        artifact = tvmopt.compile(model, target)
        artifact.save(path)
    layers = artifact.manifest["layers"]
    return model, {
        "seconds": time.perf_counter() - start,
        "target": artifact.manifest["target"]["name"],
        "model_bytes": file.stat().st_size,
        "bytes": path.stat().st_size,
        "weights_bytes": artifact.manifest["weights_bytes"],
        "arena_bytes": artifact.manifest["arena_bytes"],
        "macs": sum(layer["macs"] or 0 for layer in layers),
        "layers": len(layers),
    }


def _judge(
    specs: list[EngineSpec], arrays: Mapping[str, np.ndarray], threads: int, *, quiet: bool
) -> list[Evaluation]:
    """Return how good each engine's outputs are; those of the first are the reference."""
    infos = input_infos(specs[0].path)
    inputs = samples.select_inputs(infos, arrays, TEST)
    outputs = []
    for spec in specs:
        with show.progress(f"{len(arrays[LABELS])} images, {spec.label}", quiet=quiet) as step:
            outputs.append(
                outputs_of(spec, infos, inputs, where=TEST, threads=threads, progress=step)
            )
    return [evaluate(found, arrays[LABELS], reference=outputs[0]) for found in outputs]


def _quality(spec: EngineSpec, result: Evaluation) -> dict[str, Any]:
    matrix = result.matrix
    return {
        "title": spec.title,
        "engine": spec.engine,
        "images": result.samples,
        **{score.name: score.value for score in result.scores},
        "agreement": result.agreement,
        "max_error": next(iter(result.closeness.values())).relative_error,
        "confusion": None if matrix is None else matrix.tolist(),
        "deployed_bytes": _deployed_bytes(spec),
    }


def _deployed_bytes(spec: EngineSpec) -> int:
    """Return what has to be on a device to run the model: the file, and a rival's package."""
    size = spec.path.stat().st_size
    package = PACKAGES[spec.engine]
    if not package:
        return size
    files = metadata.files(package) or []
    paths = (Path(str(file.locate())) for file in files)
    return size + sum(path.stat().st_size for path in paths if path.is_file())
