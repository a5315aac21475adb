"""Measure each work in a process of its own."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks import reports
from benchmarks.children import ChildError, call
from benchmarks.speed.compressed import table
from benchmarks.speed.compressed.measure import Job
from benchmarks.speed.compressed.works import WORKS, Work

Row = dict[str, Any]


def select(ids: Sequence[str]) -> list[Work]:
    """Return the works of these ids, all without any; an id of another section selects nothing."""
    return [work for work in WORKS if not ids or work.id in ids]


def run(works: Sequence[Work], args: argparse.Namespace) -> list[Row]:
    """Measure each work, and say on stderr how it went."""
    rows = []
    for number, work in enumerate(works, 1):
        start = time.monotonic()
        reports.note(f"[{number}/{len(works)}] {work.id} {work.recipe or 'as it is'} ...")
        row = _row(work, args)
        rows.append(row)
        reports.note(f"    {_told(row, args.threads)}, {time.monotonic() - start:.0f} s")
    return rows


def show(rows: Sequence[Row], cpu: str, threads: Sequence[int]) -> None:
    """Print the table."""
    title = f"compressed models on {cpu}"
    grid = reports.make_table(title, table.columns(), table.make_rows(rows, threads))
    reports.show(grid, table.footer(rows))


def _row(work: Work, args: argparse.Namespace) -> Row:
    row: Row = {"id": work.id, "recipe": work.recipe, "asked": asdict(work.asked)}
    job = Job(id=work.id, threads=tuple(args.threads), seconds=args.seconds, rounds=args.rounds)
    try:
        return {**row, **call("benchmarks.speed.compressed.measure", asdict(job), args.limit)}
    except ChildError as err:
        return {**row, "reason": str(err)}


def _told(row: Row, threads: Sequence[int]) -> str:
    kinds = (("int8", table.best_int8), ("fp32", table.best_float))
    found = [(count, kind, find(row, count)) for count in threads for kind, find in kinds]
    ratios = [f"{speed['ratio']:.2f}x {kind} at {count}" for count, kind, speed in found if speed]
    return "; ".join([", ".join(ratios) or "not timed", *filter(None, [row.get("reason")])])
