"""The table of the speed benchmark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.text import Text

from benchmarks import reports
from benchmarks.speed.targets import GEOMETRIC_MEAN, target_of
from tvmopt.metrics.engines import TITLES

NONE = "-"

Row = Mapping[str, Any]


def columns(rivals: Sequence[str]) -> list[str]:
    """Return the heads, as ``reports.make_table`` takes them."""
    engines = [f">{TITLES[name]} ms" for name in ("tvmopt", *rivals)]
    return ["model", "input", ">threads", *engines, ">speed-up", "over", ">asked", "+"]


def make_rows(
    rows: Iterable[Row], threads: Sequence[int], rivals: Sequence[str]
) -> list[list[str | Text]]:
    """Return a line of cells for each model and number of threads."""
    return [
        # A reason may be long: once for each model is enough.
        [*_cells(row, count, rivals), "" if i else row.get("reason", "")]
        for row in rows
        for i, count in enumerate(threads)
    ]


def footer(rows: Sequence[Row], threads: Sequence[int]) -> list[str]:
    """Return what the rows come to."""
    lines = []
    for count in threads:
        label = f"speed-up over the best rival, {count} thread{'s' if count > 1 else ''}"
        line = reports.summarize_ratios(label, ratios_at(rows, count))
        asked = GEOMETRIC_MEAN.at(count)
        lines.append(line if asked is None else f"{line}; asked: {asked:g}x, worst 1x")
    lines.append(
        "ms: median; speed-up: the best rival's median over ours (quartiles of the rounds)"
    )
    return lines


def ratios_at(rows: Iterable[Row], threads: int) -> dict[str, float]:
    """Return the speed-ups that were measured, by model and size."""
    return {
        f"{row['id']} {row['size']}": timing["ratio"]
        for row in rows
        if (timing := find_timing(row, threads)) is not None
    }


def find_timing(row: Row, threads: int) -> Mapping[str, Any] | None:
    """Return what was measured at so many threads, if anything was."""
    return next((t for t in row.get("timings", ()) if t["threads"] == threads), None)


def _cells(row: Row, threads: int, rivals: Sequence[str]) -> list[str | Text]:
    timing, asked = find_timing(row, threads), target_of(row["id"], threads)
    head: list[str | Text] = [row["id"], row["size"], str(threads)]
    goal = NONE if asked is None else f"{asked:g}"
    if timing is None:
        return [*head, *[NONE] * (len(rivals) + 3), goal]
    times = timing["p50_ms"]
    engines = ("tvmopt", *rivals)
    head += [reports.digits(times[name]) if name in times else NONE for name in engines]
    return [*head, _speedup(timing, asked), timing["best"], goal]


def _speedup(timing: Mapping[str, Any], asked: float | None) -> Text:
    reached = timing["ratio"] >= (1.0 if asked is None else asked)
    style = "green" if reached else ("yellow" if timing["ratio"] >= 1 else "red")
    return Text(reports.ratio(timing["ratio"], timing["q1"], timing["q3"]), style=style)
