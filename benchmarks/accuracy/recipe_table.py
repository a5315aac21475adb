"""The table of the recipes that come with the checkout, each for one model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.text import Text

from benchmarks import reports
from benchmarks.accuracy.own_recipes import MOST

NONE = "-"
COLUMNS = [
    "model",
    "measure",
    ">drop (error), pt",
    ">most",
    ">cosine",
    ">MB",
    ">ms",
    ">over own float32",
    ">over the best rival",
    "which",
    "+",
]

Row = Mapping[str, Any]


def make_rows(rows: Iterable[Row]) -> list[list[str | Text]]:
    """Return a line for each recipe that was judged."""
    return [_cells(row) for row in rows]


def footer() -> list[str]:
    """Return what the columns mean."""
    return [
        "recipes/*.toml, learned from unlabelled samples; drop: as above; over: median times in "
        "turns, each engine in a process of its own (quartiles of the rounds), 1 thread; rivals: "
        "ONNX Runtime and OpenVINO in float32 and at their int8 settings that do not saturate"
    ]


def best_rival(row: Row) -> Mapping[str, Any] | None:
    """Return the race with the rival of the least median, if any was timed."""
    return min(row.get("rivals", ()), key=lambda race: race["p50_ms"][1], default=None)


def _cells(row: Row) -> list[str | Text]:
    verdict, most = row.get("verdict"), MOST[row["task"]]
    head: list[str | Text] = [row["task"], row.get("metric") or NONE]
    if not verdict:
        return [*head, *[NONE] * 8, row.get("reason", "")]
    drop = verdict["reference"] - verdict["value"]
    style = "green" if drop <= most + 1e-12 else "red"
    head.append(Text(f"{100 * drop:+.2f} ({100 * verdict['error']:.2f})", style=style))
    head += [f"{100 * most:g}", f"{verdict['cosine']:.4f}", f"{row['size_bytes'] / 1e6:.2f}"]
    rival, own = best_rival(row), row.get("speedup")
    return [
        *head,
        reports.digits(rival["p50_ms"][0]) if rival else NONE,
        reports.ratio(*own) if own else NONE,
        reports.ratio(*rival["ratio"]) if rival else NONE,
        rival["title"] if rival else NONE,
        row.get("reason", ""),
    ]
