"""Compile a model through the public API, and say what that took."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


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


def compile_model(path: Path, shapes: Mapping[str, tuple[int, ...]], folder: Path) -> Compiled:
    """Compile an ONNX file for this machine into ``folder``.

    Raises:
        TvmoptError: The compiler refuses it.
    """
    import tvmopt

    load, compile_, name = tvmopt.load, tvmopt.compile, folder / "model.so"  # imports it all
    start = time.perf_counter()
    artifact = compile_(load(path, shapes), "native")
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
