"""What the benchmarks run: the zoo's models and the demo's, at each of their shapes."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.zoo.catalogue import UnknownModelError, load_catalogue
from benchmarks.zoo.fetch import FetchResult, try_fetch
from benchmarks.zoo.inputs import make_inputs

Shapes = dict[str, tuple[int, ...]]

DEMO = "fashion_mnist"
DEMO_SHAPES: tuple[Shapes, ...] = ({"image": (1, 1, 28, 28)},)
SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class TimedJob:
    """A model to time in a process of its own, at one size.

    Attributes:
        id: Of the model.
        path: Its ONNX file.
        shapes: Of its inputs, by name.
        threads: Each number of threads to measure at.
        seconds: Timed seconds of each engine at each number of threads.
        rounds: Turns in which they are spent.
    """

    id: str
    path: str
    shapes: Mapping[str, tuple[int, ...]]
    threads: tuple[int, ...]
    seconds: float
    rounds: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A model at one size.

    Attributes:
        id: In the catalogue, or ``DEMO``.
        shapes: Of every input, by name.
    """

    id: str
    shapes: Shapes

    @property
    def size(self) -> str:
        """The shapes for a table, such as ``1x3x224x224``; equal ones of several inputs once."""
        texts = ("x".join(map(str, shape)) or "scalar" for shape in self.shapes.values())
        return ", ".join(dict.fromkeys(texts))

    @property
    def title(self) -> str:
        """The model and its size."""
        return f"{self.id} {self.size}"


def select_cases(ids: Sequence[str], group: str | None) -> list[Case]:
    """Return each shape of the models named by ``ids`` and ``group``, the demo's model last.

    The demo's model belongs to the group ``"main"``, which is also what no argument at all means.

    Raises:
        UnknownModelError: One of ``ids`` is no model.
    """
    if not ids and group is None:
        group = "main"
    catalogue = load_catalogue()
    known = [*catalogue, DEMO]
    if unknown := [name for name in ids if name not in known]:
        raise UnknownModelError(f"a model must be one of {', '.join(known)}, got {unknown}")
    rows = [
        (name, model.shapes)
        for name, model in catalogue.items()
        if name in ids or model.group == group
    ]
    if DEMO in ids or group == "main":
        rows.append((DEMO, DEMO_SHAPES))
    return [Case(id=name, shapes=shapes) for name, sizes in rows for shapes in sizes]


def locate(model_id: str) -> FetchResult:
    """Return where a model's ONNX file is, after fetching it if need be, or why it is not there."""
    if model_id != DEMO:
        return try_fetch(load_catalogue()[model_id])
    path = _demo_file(f"{DEMO}.onnx")
    size = path.stat().st_size
    return FetchResult(id=DEMO, path=path, size_bytes=size, seconds=0.0, reason=None)


def case_inputs(case: Case, path: Path) -> dict[str, np.ndarray]:
    """Return plausible inputs by name, the same each time; for the demo's model, real images."""
    if case.id != DEMO:
        return make_inputs(path, case.shapes, seed=SEED)
    with np.load(_demo_file(f"{DEMO}_test.npz")) as samples:
        return {name: samples[name][: shape[0]] for name, shape in case.shapes.items()}


def _demo_file(name: str) -> Path:
    return Path(str(importlib.resources.files("tvmopt.demo_data") / name))
