"""The demo's work: compile, judge, time and profile the embedded model."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import numpy as np

from tvmopt import samples
from tvmopt.cli import show
from tvmopt.cli.files import check_writable
from tvmopt.cli.layers import describe_profile
from tvmopt.cli.timings import describe_timings
from tvmopt.errors import ArtifactError
from tvmopt.metrics import cpus
from tvmopt.metrics.engines import PACKAGES, RIVALS, EngineSpec
from tvmopt.metrics.evaluation import LABELS, evaluate
from tvmopt.metrics.inputs import input_infos
from tvmopt.metrics.layer_times import layer_times
from tvmopt.metrics.prediction import outputs_of
from tvmopt.metrics.turns import Schedule, compare

DATA = resources.files("tvmopt.demo_data")
MODEL, TEST, CLASSES = "fashion_mnist.onnx", "fashion_mnist_test.npz", "classes.json"
BATCH_1 = (1, 1, 28, 28)


def run_demo(
    output: Path, *, threads: int, target: str, seconds: float, quiet: bool
) -> dict[str, Any]:
    """Compile the embedded model into ``output`` and return all that was measured of it.

    Raises:
        TvmoptError: The folder cannot be written, the target is none of this machine, or there
            are too few CPUs.
    """
    schedule = Schedule(seconds=seconds)
    cpus.shares(threads)
    path = _prepare(output) / "model.so"
    with resources.as_file(DATA) as data:
        compiled = _compile(data / MODEL, path, target, quiet=quiet)
        specs = [EngineSpec(engine="tvmopt", path=path)]
        specs += [EngineSpec(engine=name, path=data / MODEL) for name in RIVALS]
        specs = [spec for spec in specs if spec.installed]
        arrays = samples.load_npz(data / TEST)
        judged = _judge(specs, arrays, threads, quiet=quiet)
        image = {name: array[:1] for name, array in arrays.items() if name != LABELS}
        with show.progress("timing, in turns", quiet=quiet) as step:
            results = compare(specs, image, threads=threads, schedule=schedule, progress=step)
        for engine, result in zip(judged, results, strict=True):
            engine["deployed_bytes"] = _deployed_bytes(result.spec)
        with show.spinner("profiling", quiet=quiet), cpus.pinned(threads):
            profile = layer_times(path, image, threads=threads)
    return {
        "output": str(output),
        "compiled": compiled,
        "quality": judged,
        "timing": describe_timings(results, "the first test image"),
        "profile": describe_profile(profile, "the first test image"),
        "classes": json.loads((DATA / CLASSES).read_text()),
        "not_installed": [name for name in RIVALS if not _spec(name).installed],
    }


def _spec(engine: str) -> EngineSpec:
    return EngineSpec(engine=engine, path=Path(MODEL))


def _prepare(output: Path) -> Path:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise ArtifactError(f"{output}: must be a folder to write to: {err.strerror}") from err
    for name in ("model.so", "model.h", "report.html"):
        check_writable(output / name)
    return output


def _compile(model: Path, path: Path, target: str, *, quiet: bool) -> dict[str, Any]:
    start = time.perf_counter()
    with show.spinner(f"compiling {model.name} for {target}", quiet=quiet):
        import tvmopt

        artifact = tvmopt.compile(tvmopt.load(model, {"image": BATCH_1}), target)
        artifact.save(path)
    layers = artifact.manifest["layers"]
    return {
        "seconds": time.perf_counter() - start,
        "target": artifact.manifest["target"]["name"],
        "model_bytes": model.stat().st_size,
        "bytes": path.stat().st_size,
        "weights_bytes": artifact.manifest["weights_bytes"],
        "arena_bytes": artifact.manifest["arena_bytes"],
        "macs": sum(layer["macs"] or 0 for layer in layers),
        "layers": len(layers),
    }


def _judge(
    specs: list[EngineSpec], arrays: Mapping[str, np.ndarray], threads: int, *, quiet: bool
) -> list[dict[str, Any]]:
    """Return each engine's quality; the first one's is compared with that of each other."""
    infos = input_infos(specs[0].path)
    inputs = samples.select_inputs(infos, arrays, TEST)
    outputs = []
    for spec in specs:
        with show.progress(f"{len(arrays[LABELS])} images, {spec.title}", quiet=quiet) as step:
            outputs.append(
                outputs_of(spec, infos, inputs, where=TEST, threads=threads, progress=step)
            )
    judged = []
    for spec, found in zip(specs, outputs, strict=True):
        result = evaluate(found, arrays[LABELS], reference=outputs[0])
        matrix = result.matrix
        judged.append({
            "title": spec.title,
            "engine": spec.engine,
            "images": result.samples,
            **{score.name: score.value for score in result.scores},
            "agreement": result.agreement,
            "max_error": next(iter(result.closeness.values())).relative_error,
            "confusion": None if matrix is None else matrix.tolist(),
        })  # fmt: skip
    return judged


def _deployed_bytes(spec: EngineSpec) -> int:
    """Return what has to be on a device to run the model: the file, and a rival's package."""
    size = spec.path.stat().st_size
    package = PACKAGES[spec.engine]
    if not package:
        return size
    files = metadata.files(package) or []
    paths = (Path(str(file.locate())) for file in files)
    return size + sum(path.stat().st_size for path in paths if path.is_file())
