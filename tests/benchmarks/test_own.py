"""Our compressed artefacts beside our float ones: which kernels, the ratios, the table."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from benchmarks import reports
from benchmarks.speed.own import __main__ as own
from benchmarks.speed.own.measure import summarize, without_repairs
from tvmopt.metrics.engines import EngineSpec
from tvmopt.metrics.turns import EngineResult
from tvmopt.recipe import Recipe


def result(*rounds: float) -> EngineResult:
    return EngineResult(
        spec=EngineSpec(engine="tvmopt", path=Path("x")),
        version="1",
        threads=1,
        streams=1,
        load_ms=1.0,
        first_ms=1.0,
        rounds=tuple(np.array([seconds]) for seconds in rounds),
        inferences=1.0,
        outputs={},
    )


def row(**ratios: float) -> dict[str, Any]:
    return {
        "id": "magika",
        "size": "1x3",
        "reasons": {"w4": "no [such] layer"},
        "changed": {name: (int(value != 1), 5) for name, value in ratios.items()},
        "predicted": dict.fromkeys(ratios, 1.5),
        "size_bytes": {"": 100} | dict.fromkeys(ratios, 50),
        "ratios": [
            {"recipe": n, "threads": 1, "p50_ms": 2.0, "ratio": r, "q1": r, "q3": r}
            for n, r in ratios.items()
        ],
    }


@pytest.mark.parametrize("name", own.RECIPES)
def test_without_repairs_the_same_layers_are_compressed(name: str) -> None:
    recipe = Recipe.named(name)
    quick = without_repairs(recipe)
    stages = [kind.stage for kind in quick.kinds]
    assert stages == [kind.stage for kind in recipe.kinds if kind.stage != "repair"]
    assert (quick.keep, quick.layers, quick.auto_bits) == (
        recipe.keep,
        recipe.layers,
        recipe.auto_bits,
    )


def test_each_artefact_is_compared_with_that_of_floats() -> None:
    found = summarize(2, {"": result(1.0, 3.0, 3.0), "int8": result(2.0, 1.0, 1.5)})
    (ratio,) = found
    assert (ratio.recipe, ratio.threads, ratio.p50_ms) == ("int8", 2, 1500.0)
    assert (ratio.ratio, ratio.q1, ratio.q3) == (2.0, 1.25, 2.5)


def test_the_slowest_stand_first_and_what_is_missing_below() -> None:
    lines = own.make_rows([row(int8=1.2, w8=0.4), row(fp16=1.0)])
    assert [line[2] for line in lines] == ["w8", "fp16", "int8"]
    stream = io.StringIO()
    console = Console(file=stream, width=160)
    console.print(reports.make_table("t", own.COLUMNS, lines))
    text = stream.getvalue()
    assert "0.40 (0.40-0.40)" in text
    assert "1/5" in text
    assert "as in floats" in text
    assert "magika, w4: no [such] layer" in own.footer([row(int8=1.2)])
