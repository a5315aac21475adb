"""The table of drop against sparsity, with what each share of zeros buys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from benchmarks.accuracy.asked import asked_of_sparse
from benchmarks.accuracy.channel_methods import Channels
from benchmarks.accuracy.low_rank_methods import LowRank
from benchmarks.accuracy.sparse_methods import Cell

NONE = "-"

Row = Mapping[str, Any]
Rows = Mapping[tuple[str, str], Row]
"""Measured rows by task and method."""
Thin = LowRank | Channels


def columns(sparsities: Sequence[int]) -> list[str]:
    """Return the heads, as ``reports.make_table`` takes them."""
    return ["zeros in", "importance", "refitted", *(f">{share} %" for share in sparsities)]


def make_rows(
    task: str, rows: Rows, grid: Sequence[Cell], sparsities: Sequence[int]
) -> list[list[str | Text]]:
    """Return a line for each structure, importance and repair that has something measured."""
    found = {cell: rows[task, cell.name] for cell in grid if (task, cell.name) in rows}
    lines = dict.fromkeys((c.structure, c.importance, c.repair) for c in found)
    table: list[list[str | Text]] = []
    for structure, importance, repair in sorted(lines, key=list(lines).index):
        line = [
            Cell(structure=structure, sparsity=share, importance=importance, repair=repair)
            for share in sparsities
        ]
        head = [structure, importance, "yes" if repair else "no"]
        table.append([*head, *(told(cell, found.get(cell)) for cell in line)])
    return table


def grid_rows(
    task: str, rows: Rows, grid: Sequence[Thin], shown: Sequence[int]
) -> list[list[str | Text]]:
    """Return a line for each label that has something measured, with these columns."""
    known = {cell.label: None for cell in grid if (task, cell.name) in rows}
    table: list[list[str | Text]] = []
    for label in known:
        line = {cell.column: rows.get((task, cell.name)) for cell in grid if cell.label == label}
        table.append([label, *(spelled(line.get(column)) for column in shown)])
    return table


def told(cell: Cell, row: Row | None) -> str | Text:
    """Return what became of a cell, green or red where something was asked of it."""
    text, verdict = spelled(row), row and row.get("verdict")
    asked = asked_of_sparse(row["task"], cell.structure, cell.sparsity) if row else None
    if asked is None or not verdict:
        return text
    drop = verdict["reference"] - verdict["value"]
    return Text(text, style="green" if drop <= asked.most(verdict["error"]) else "red")


def spelled(row: Row | None) -> str:
    """Return the drop in points, its paired error and the speed-up; why not, if there is none."""
    if row is None:
        return NONE
    verdict = row.get("verdict")
    if not verdict:
        return "failed"
    drop, error = verdict["reference"] - verdict["value"], verdict["error"]
    text = f"{100 * drop:+.2f} ({100 * error:.2f})"
    if row["task"] == "minilm_l6_v2":
        text += f" cos {verdict['cosine']:.3f}"
    if row.get("least_speedup"):
        text += f" {row['least_speedup']:.2f}x"
    return text


def footer() -> list[str]:
    """Return what the cells mean."""
    return [
        "float model minus artefact, in points (paired standard error), and the artefact's "
        "speed-up over the dense float32 one: least times, in turns; cos: of embeddings",
        "zeros in: outputs x inputs of a block, or N of M neighbouring inputs; green: better than "
        "published prototypes by two errors, by half for blocks of 16 outputs",
    ]
