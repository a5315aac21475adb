"""The zoo's table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.text import Text

from benchmarks import reports

STYLES = {"ok": "green", "skipped": "yellow", "failed": "bold red"}
NONE = "-"

Row = Mapping[str, Any]


def columns(threads: Sequence[int]) -> list[str]:
    """Return the heads, as ``reports.make_table`` takes them."""
    heads = ["model", "input", "+status", ">error", ">compile s", ">MB", ">generated", ">predicted"]
    for count in threads:
        at = f" x{count}" if len(threads) > 1 else ""
        heads += [f">ms{at}", f">speed-up{at}"]
    return heads


def make_rows(rows: Iterable[Row], threads: Sequence[int]) -> list[list[str | Text]]:
    """Return the cells; what was not measured is a dash."""
    return [_cells(row, threads) for row in rows]


def footer(rows: Sequence[Row], threads: Sequence[int]) -> list[str]:
    """Return what the rows come to."""
    counts = Counter(row["status"] for row in rows)
    lines = [", ".join(f"{counts[status]} {status}" for status in STYLES)]
    for count in threads:
        ratios = {
            f"{row['id']} {row['size']}": timing["ratio"]
            for row in rows
            if (timing := _timing(row, count)) is not None
        }
        label = f"speed-up over ONNX Runtime, {count} thread{'s' if count > 1 else ''}"
        lines.append(reports.summarize_ratios(label, ratios))
    if shares := [row["predicted"] for row in rows if row.get("predicted") is not None]:
        lines.append(
            f"steps predicted within 30 %: {min(shares):.0%} of the time or more, of each model"
        )
    lines.append(
        "error: of the output's peak; generated: steps with a generated kernel, of all; predicted: "
        "share of the time, 1 thread, of steps within 30 % of their prediction; ms: median; "
        "speed-up: ONNX Runtime's time over ours, the rounds' median (and quartiles)"
    )
    return lines


def _cells(row: Row, threads: Sequence[int]) -> list[str | Text]:
    cells: list[str | Text] = [
        row["id"],
        row["size"],
        _status(row),
        _format("{:.1e}", row.get("error")),
        _format("{:.1f}", row.get("compile_seconds")),
        NONE if row.get("size_bytes") is None else reports.digits(row["size_bytes"] / 1e6),
        NONE if row.get("layers") is None else f"{row['generated']}/{row['layers']}",
        _format("{:.0%}", row.get("predicted")),
    ]
    for count in threads:
        timing = _timing(row, count)
        if timing is None:
            cells += [NONE, NONE]
        else:
            cells.append(reports.digits(timing["ours_ms"]))
            cells.append(reports.ratio(timing["ratio"], timing["q1"], timing["q3"]))
    return cells


def _status(row: Row) -> Text:
    text = Text(row["status"], style=STYLES[row["status"]])
    if row.get("reason"):
        text.append(f": {row['reason']}", style="default")
    return text


def _format(template: str, value: float | None) -> str:
    return NONE if value is None else template.format(value)


def _timing(row: Row, threads: int) -> Mapping[str, Any] | None:
    return next((t for t in row.get("timings", ()) if t["threads"] == threads), None)
