"""The demo's compressed artefacts: made by recipes, and what they bought and cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvmopt.cli import show, units
from tvmopt.metrics.evaluation import Evaluation
from tvmopt.metrics.turns import EngineResult

if TYPE_CHECKING:
    from tvmopt import Model


def artefact(folder: Path, recipe: str) -> Path:
    """Return where the demo writes the artefact of a recipe."""
    return folder / f"model-{recipe}.so"


def compile_compressed(
    model: Model, recipe: str, calibration: Path, target: str, path: Path, *, quiet: bool
) -> dict[str, Any]:
    """Compress, compile and save the model; return what the manifest says of it.

    Args:
        model: As loaded.
        recipe: Its name.
        calibration: The file of training images.
        target: Its name.
        path: Of the artefact.
        quiet: Whether to show no progress.
    """
    import tvmopt

    with show.stages(quiet=quiet) as progress:
        small = model.apply(recipe, calibration=calibration, target=target, progress=progress)
    with show.spinner(f"compiling {model.name} by recipe {recipe}", quiet=quiet):
        artifact = tvmopt.compile(small, target)
        artifact.save(path)
    told = artifact.manifest["recipe"]
    changed = [layer for layer in told["result"] if layer["before"] != layer["after"]]
    return {
        "recipe": recipe,
        "description": told["description"],
        "samples": told["calibration"] and told["calibration"]["samples"],
        "file": path.name,
        "bytes": path.stat().st_size,
        "weights_bytes": artifact.manifest["weights_bytes"],
        "layers": len(told["result"]),
        "compressed_layers": len(changed),
        "predicted_cycles": told["predicted_cycles"],
    }


def describe_compressed(
    made: Mapping[str, Any],
    judged: Evaluation,
    timed: EngineResult,
    others: Sequence[EngineResult],
) -> dict[str, Any]:
    """Return a compressed artefact beside the one of floats, as JSON can hold it.

    Args:
        made: What ``compile_compressed`` returns.
        judged: Its outputs against labels and against those of the artefact of floats.
        timed: Its times.
        others: Times of the same run: of the artefact of floats, then of rivals.
    """
    score = judged.score("accuracy")
    return {
        **made,
        "accuracy": score.value,
        "drop": score.drop,
        "standard_error": score.error,
        "agreement": judged.agreement,
        "images": judged.samples,
        "latency_ms": asdict(timed.latency),
        "load_ms": timed.load_ms,
        "speedup_over": {
            "tvmopt float32" if other is others[0] else other.spec.title: asdict(
                timed.speedup_over(other)
            )
            for other in others
        },
    }


def print_compressed(compressed: Sequence[Mapping[str, Any]], floats: Mapping[str, Any]) -> None:
    """Print one row for each artefact.

    Args:
        compressed: What ``describe_compressed`` returned of each.
        floats: What is compared with: "bytes", "weights_bytes", "accuracy" and "p50" in ms.
    """
    names = list(compressed[0]["speedup_over"])
    first = (
        "float32",
        units.bytes_(floats["bytes"]),
        units.bytes_(floats["weights_bytes"]),
        units.percent(floats["accuracy"]),
        "",
        units.digits(floats["p50"]),
        *("" for _ in names),
    )
    rows = [
        (
            one["recipe"],
            units.bytes_(one["bytes"]),
            units.bytes_(one["weights_bytes"]),
            units.percent(one["accuracy"]),
            f"{-100 * one['drop'] + 0.0:+.2f} ({100 * one['standard_error']:.2f})",
            units.digits(one["latency_ms"]["p50"]),
            *(f"{one['speedup_over'][name]['ratio']:.2f}x" for name in names),
        )
        for one in compressed
    ]
    show.heading("compressed by recipes, calibrated on training images")
    columns = ("recipe", ">model.so", ">weights", ">accuracy", ">points (standard error)")
    show.table((*columns, ">p50 ms", *(f">over {name}" for name in names)), [first, *rows])
