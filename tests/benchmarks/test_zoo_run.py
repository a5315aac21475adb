"""The zoo's command: what is skipped, what fails, what the table says."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from benchmarks import reports
from benchmarks.cases import Case
from benchmarks.children import ChildError
from benchmarks.zoo import run
from benchmarks.zoo.fetch import FetchResult
from benchmarks.zoo.table import columns, footer, make_rows

OK: dict[str, Any] = {
    "status": "ok",
    "reason": "",
    "error": 1.21e-6,
    "compile_seconds": 3.21,
    "size_bytes": 1_234_000,
    "layers": 12,
    "generated": 11,
    "predicted": 0.943,
    "timings": [
        {"threads": 1, "ours_ms": 0.5, "rival_ms": 1.0, "ratio": 2.0, "q1": 1.9, "q3": 2.1},
    ],
}
CASE = Case(id="net", shapes={"x": (1, 2), "mask": (1, 2), "sr": ()})


def render(table: Table) -> str:
    stream = io.StringIO()
    Console(file=stream, width=160).print(table)
    return stream.getvalue()


def found(model_id: str) -> FetchResult:
    return FetchResult(id=model_id, path=Path("x.onnx"), size_bytes=1, seconds=0, reason=None)


def missing(model_id: str) -> FetchResult:
    reason = "npm is not installed [really]"
    return FetchResult(id=model_id, path=None, size_bytes=None, seconds=0, reason=reason)


def test_a_size_says_equal_shapes_once() -> None:
    assert CASE.size == "1x2, scalar"


def test_the_table_shows_what_was_measured() -> None:
    rows = [{"id": "net", "size": "1x2", **OK}]
    text = render(reports.make_table("zoo", columns([1]), make_rows(rows, [1])))
    measured = ["1.2e-06", "3.2", "1.23", "11/12", "94%", "0.500", "2.00 (1.90-2.10)"]
    cells = ["net", "1x2", "ok", *measured]
    position = 0
    for cell in cells:
        position = text.index(cell, position)


def test_the_table_keeps_reasons_and_has_a_dash_for_the_rest() -> None:
    row = {"id": "net", "size": "1x2", "status": "skipped", "reason": "npm [red] is missing"}
    text = render(reports.make_table("zoo", columns([1, 2]), make_rows([row], [1, 2])))
    assert "skipped: npm [red] is missing" in text
    assert text.splitlines()[-2].split()[-4:] == ["-"] * 4
    assert "speed-up x2" in text


def test_the_footer_counts_and_averages() -> None:
    half = {**OK, "timings": [{**OK["timings"][0], "ratio": 0.5}]}
    rows = [
        {"id": "a", "size": "1", **OK},
        {"id": "b", "size": "2", **half},
        {"id": "c", "size": "3", "status": "failed", "reason": "exited 1"},
    ]
    rows[1]["predicted"] = 0.9
    lines = footer(rows, [1])
    assert lines[0] == "2 ok, 0 skipped, 1 failed"
    assert "steps predicted within 30 %: 90% of the time or more, of each model" in lines
    assert lines[1] == (
        "speed-up over ONNX Runtime, 1 thread: geometric mean 1.00x, worst 0.50x (b 2), "
        "2 models timed"
    )
    assert "no model was timed" in footer(rows[2:], [1])[1]


def _main(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *rest: str) -> tuple[int, Any]:
    monkeypatch.setattr(run, "select_cases", lambda _ids, _group: [CASE])
    path = tmp_path / "deep" / "zoo.json"
    code = run.main(["--json", str(path), *rest])
    return code, json.loads(path.read_text())["models"][0]


def test_a_model_that_cannot_be_had_is_skipped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "locate", missing)
    code, row = _main(monkeypatch, tmp_path)
    assert code == 0
    assert (row["status"], row["reason"]) == ("skipped", "npm is not installed [really]")
    said = capsys.readouterr()
    assert "skipped: npm is not installed [really]" in said.out
    assert "skipped: npm is not installed [really]" in said.err


@pytest.mark.parametrize("crash", [True, False])
def test_a_model_that_fails_makes_the_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, crash: bool
) -> None:
    def call(*_: Any) -> dict[str, Any]:
        if crash:
            raise ChildError("killed by SIGSEGV")
        return {**OK, "status": "failed", "reason": "killed by SIGSEGV"}

    monkeypatch.setattr(run, "locate", found)
    monkeypatch.setattr(run, "call", call)
    code, row = _main(monkeypatch, tmp_path)
    assert code == 1
    assert (row["status"], row["reason"]) == ("failed", "killed by SIGSEGV")


def test_a_slow_model_is_no_failure_and_threads_reach_the_job(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    jobs = []

    def call(module: str, job: dict[str, Any], limit: float) -> dict[str, Any]:
        jobs.append((module, job, limit))
        return {**OK, "timings": [{**OK["timings"][0], "ratio": 0.01}]}

    monkeypatch.setattr(run, "locate", found)
    monkeypatch.setattr(run, "call", call)
    code, row = _main(monkeypatch, tmp_path, "--threads", "2", "--limit", "7")
    assert code == 0
    assert row["shapes"] == {"x": [1, 2], "mask": [1, 2], "sr": []}
    ((module, job, limit),) = jobs
    assert (module, job["threads"], limit) == ("benchmarks.zoo.measure", (1, 2), 7)


def test_an_unknown_model_gives_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["no_such"]) == 2
    assert "a model must be one of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.01234, "0.0123"), (1.234, "1.23"), (123.4, "123"), (12345.0, "12345"), (0.0, "0")],
)
def test_digits(value: float, text: str) -> None:
    assert reports.digits(value) == text


def test_json_holds_no_infinity(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    reports.write_json(path, {"a": [float("inf"), 1.0], "b": (float("nan"),)})
    assert json.loads(path.read_text()) == {"a": [None, 1.0], "b": [None]}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
