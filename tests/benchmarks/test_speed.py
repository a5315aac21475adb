"""The speed benchmark: the best rival, the table, the picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from rich.console import Console

from benchmarks import reports
from benchmarks.speed import plot, table
from benchmarks.speed.measure import summarize
from tvmopt.metrics.engines import EngineSpec
from tvmopt.metrics.turns import EngineResult

RIVALS = ["onnxruntime", "openvino"]


def result(engine: str, *rounds: float) -> EngineResult:
    return EngineResult(
        spec=EngineSpec(engine=engine, path=Path("x")),
        version="1",
        threads=1,
        streams=1,
        load_ms=1.0,
        first_ms=1.0,
        rounds=tuple(np.array([seconds]) for seconds in rounds),
        inferences=1.0,
        outputs={},
    )


def row(name: str, ratio: float, **more: Any) -> dict[str, Any]:
    timing = {
        "threads": 1,
        "p50_ms": {"tvmopt": 1.0, "onnxruntime": 2.0 * ratio, "openvino": ratio},
        "best": "OpenVINO",
        "ratio": ratio,
        "q1": 0.9 * ratio,
        "q3": 1.1 * ratio,
    }
    return {"id": name, "size": "1x3", "timings": [timing], **more}


def test_the_best_rival_has_the_least_median() -> None:
    ours, slow, fast = (
        result("tvmopt", 1.0, 1.0, 1.0),
        result("onnxruntime", 1.0, 4.0, 4.0),
        result("openvino", 2.0, 2.0, 3.0),
    )
    timing = summarize(1, ours, [slow, fast])
    assert timing.best == "OpenVINO"
    assert (timing.ratio, timing.q1, timing.q3) == (2.0, 2.0, 2.5)
    assert timing.p50_ms == {"tvmopt": 1000.0, "onnxruntime": 4000.0, "openvino": 2000.0}


def test_the_table_has_a_line_for_each_number_of_threads() -> None:
    rows = [row("resnet18", 2.0), {"id": "gone", "size": "1", "reason": "skipped: no network"}]
    grid = reports.make_table("t", table.columns(RIVALS), table.make_rows(rows, [1, 2], RIVALS))
    stream = io.StringIO()
    Console(file=stream, width=160).print(grid)
    lines = [line.split() for line in stream.getvalue().splitlines() if line.strip()]
    measured = next(line for line in lines if line[:3] == ["resnet18", "1x3", "1"])
    assert measured[3:] == ["1.00", "4.00", "2.00", "2.00", "(1.80-2.20)", "OpenVINO", "1.9"]
    assert next(line for line in lines if line[:3] == ["resnet18", "1x3", "2"])[-1] == "1.8"
    assert sum("skipped: no network" in " ".join(line) for line in lines) == 1


def test_the_footer_says_what_is_asked_of_all() -> None:
    lines = table.footer([row("a", 2.0), row("b", 0.5)], [1, 4])
    assert "geometric mean 1.00x, worst 0.50x (b 1x3)" in lines[0]
    assert lines[0].endswith("asked: 1.4x, worst 1x")
    assert "4 threads: no model was timed" in lines[1]
    assert "asked" not in lines[1]


def test_the_picture_holds_every_model_that_was_timed(tmp_path: Path) -> None:
    path = tmp_path / "speed.svg"
    rows = [row("resnet18", 2.0), row("slow", 0.2), {"id": "gone", "size": "1", "reason": "x"}]
    assert plot.draw(rows, [1, 2], "a machine", path)
    texts = " ".join(ElementTree.parse(path).getroot().itertext())
    assert "resnet18  1x3" in texts
    assert "0.20" in texts
    assert "gone" not in texts
    again = tmp_path / "again.svg"
    plot.draw(rows, [1, 2], "a machine", again)
    assert path.read_bytes() == again.read_bytes()


def test_nothing_timed_draws_nothing(tmp_path: Path) -> None:
    assert not plot.draw([{"id": "gone", "size": "1"}], [1], "a machine", tmp_path / "x.svg")
    assert not list(tmp_path.iterdir())
