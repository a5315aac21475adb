"""Compile a model through the public API, and say what that took."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class Compiled:
    """An artefact on disk.

    Attributes:
        path: The shared object.
        seconds: Loading the ONNX file, compiling and saving; not importing the compiler.
        size_bytes: Of the shared object.
        layers: Steps that the artefact runs.
        generated: Those whose kernel comes from a generator; the rest has a generic schedule.
    """

    path: Path
    seconds: float
    size_bytes: int
    layers: int
    generated: int


def compile_model(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    folder: Path,
    *,
    recipe: Any = None,
    calibration: Mapping[str, np.ndarray] | None = None,
) -> Compiled:
    """Compile an ONNX file for this machine into ``folder``.

    Args:
        path: The file.
        shapes: Of its inputs, by name.
        folder: Takes ``model.so``, or the recipe's name, or its file's, with that suffix.
        recipe: What ``Model.apply`` takes; None compiles the model as it is.
        calibration: Samples along the first axis by input name, for the recipe.

    Raises:
        TvmoptError: The compiler refuses it.
    """
    import tvmopt

    load, compile_ = tvmopt.load, tvmopt.compile  # imports it all
    named = isinstance(recipe, str | Path)
    name = folder / (f"{Path(recipe).stem}.so" if named else "model.so")
    start = time.perf_counter()
    model = load(path, shapes)
    if recipe is not None:
        model = model.apply(recipe, calibration=calibration)
    artifact = compile_(model, "native")
    saved = artifact.save(name)
    seconds = time.perf_counter() - start
    layers = artifact.manifest["layers"]
    return Compiled(
        path=saved,
        seconds=seconds,
        size_bytes=saved.stat().st_size,
        layers=len(layers),
        # Generators count the work of what they claim; the generic schedule counts nothing.
        generated=sum(layer["macs"] is not None for layer in layers),
    )
