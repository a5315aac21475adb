"""The recipes of the folder ``recipes``: each is for one model, and fits it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.accuracy import own_recipes, recipe_table
from benchmarks.accuracy.tasks import TASKS
from benchmarks.zoo.cache import MODELS
from benchmarks.zoo.catalogue import load_catalogue
from tvmopt import ir, load
from tvmopt.compress import canonicalize
from tvmopt.layers import layers_of
from tvmopt.recipe import Recipe
from tvmopt.recipe.rules import check_matches
from tvmopt.report import Report

DEMO = Path(__file__).parents[2] / "tvmopt" / "demo_data" / "fashion_mnist.onnx"


def _model(task: str) -> Path:
    return DEMO if task == "fashion_mnist" else MODELS / f"{task}.onnx"


def test_each_file_is_for_a_task() -> None:
    there = {path.stem for path in own_recipes.FOLDER.iterdir()}
    assert there == set(own_recipes.MOST)
    assert there <= set(TASKS)


@pytest.mark.parametrize("task", own_recipes.MOST)
def test_a_recipe_of_the_folder_is_one(task: str, tmp_path: Path) -> None:
    path = own_recipes.recipe_of(task)
    recipe = Recipe.load(path)
    assert recipe.description
    # What is measured is the file without its comments.
    method = own_recipes.method_of(task)
    assert "#" not in method.text
    assert Recipe.load(method.source(tmp_path)).sha256() == recipe.sha256()


@pytest.mark.parametrize("task", own_recipes.MOST)
def test_a_recipe_fits_its_model(task: str) -> None:
    path = _model(task)
    if not path.exists():
        pytest.skip(f"{path.name} has not been fetched: python -m benchmarks.zoo.fetch {task}")
    shapes = {"image": (1, 1, 28, 28)}
    if task != "fashion_mnist":
        shapes = dict(load_catalogue()[task].shapes[0])
    recipe = Recipe.load(own_recipes.recipe_of(task))
    mod = ir.unique_names(canonicalize(load(path, shapes).mod, Report()))
    layers = layers_of(mod)
    assert layers
    check_matches(recipe.layers, layers, task)  # a pattern that fits no layer is an error


def test_the_table_names_the_fastest_rival() -> None:
    verdict = {"value": 0.926, "reference": 0.93, "error": 0.001, "cosine": 0.99}
    races = [
        {"title": "ORT as it is", "p50_ms": (1.0, 3.0), "ratio": (3.0, 2.9, 3.1)},
        {"title": "OV QDQ s7", "p50_ms": (1.0, 2.0), "ratio": (2.0, 1.9, 2.1)},
    ]
    row = {
        "task": "fashion_mnist",
        "metric": "accuracy",
        "verdict": verdict,
        "size_bytes": 250_000,
        "speedup": (1.5, 1.4, 1.6),
        "rivals": races,
    }
    worse = {**row, "verdict": {**verdict, "value": 0.924}, "rivals": []}
    good, bad = recipe_table.make_rows([row, worse])
    assert [str(cell) for cell in good[2:10]] == [
        "+0.40 (0.10)",
        "0.5",
        "0.9900",
        "0.25",
        "1.00",
        "1.50 (1.40-1.60)",
        "2.00 (1.90-2.10)",
        "OV QDQ s7",
    ]
    assert (getattr(good[2], "style", ""), getattr(bad[2], "style", "")) == ("green", "red")
    assert bad[8] == recipe_table.NONE
    assert all(len(line) == len(recipe_table.COLUMNS) for line in (good, bad))
