"""The table of the accuracy benchmark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.text import Text

from benchmarks import reports
from benchmarks.accuracy.asked import asked_of

NONE = "-"
COLUMNS = [
    "model",
    "measure",
    "method",
    ">value %",
    ">drop (error), pt",
    ">asked",
    ">cosine",
    ">speed-up",
    ">MB",
    ">s",
    "+",
]

Row = Mapping[str, Any]


def make_rows(rows: Iterable[Row]) -> list[list[str | Text]]:
    """Return a line of cells for each row."""
    return [_cells(row) for row in rows]


def footer() -> list[str]:
    """Return what the columns mean."""
    return [
        "drop: float model minus compressed artefact, in points; error: paired standard error, "
        "sqrt(flips) / n; agreement and same strings: with the float model",
        "WnA8: n-bit weights, 8-bit activations, every layer; named recipes keep what pays; "
        "speed-up: over our float32 artefact (quartiles of the rounds); s: to compress and compile",
    ]


def _cells(row: Row) -> list[str | Text]:
    head = [row["task"], row.get("metric") or NONE, row["method"]]
    verdict = row.get("verdict")
    if not verdict:
        return [*head, *[NONE] * 7, row.get("reason", "")]
    drop = verdict["reference"] - verdict["value"]
    asked = asked_of(row["task"], row["method"])
    style = ""
    if asked is not None:
        style = "green" if asked.holds(drop, verdict["cosine"]) else "red"
    told = NONE if asked is None else f"{100 * asked.drop:g}"
    if asked is not None and asked.cosine:
        told += f", {asked.cosine:g}"
    speedup, size = row.get("speedup"), row.get("size_bytes")
    return [
        *head,
        f"{100 * verdict['value']:.2f}",
        Text(f"{100 * drop:+.2f} ({100 * verdict['error']:.2f})", style=style),
        told,
        f"{verdict['cosine']:.4f}",
        reports.ratio(*speedup) if speedup else NONE,
        NONE if size is None else f"{size / 1e6:.2f}",
        f"{row['seconds']:.0f}",
        row.get("reason", ""),
    ]
