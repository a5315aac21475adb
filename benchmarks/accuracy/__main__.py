"""Compress models in many ways and judge each artefact on real data: tables, and JSON.

::

    python -m benchmarks.accuracy                                  # everything: many hours
    python -m benchmarks.accuracy --parts quantized --only fashion_mnist --bits 8 4 --recipes int8
    python -m benchmarks.accuracy --parts sparse --structures 16x1 4x1 --sparsity 50 --minutes 10
    python -m benchmarks.accuracy --minutes 0                      # print what has been measured

Nothing is asserted: what is missed is printed as missed. The JSON file is written anew after each
row, and what it holds already is not measured again: a run may be stopped, and the next goes on.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import reports
from benchmarks.accuracy import recipe_table, sparse_table, table
from benchmarks.accuracy.measure import Job
from benchmarks.accuracy.methods import Method
from benchmarks.accuracy.results import Results, Row
from benchmarks.accuracy.selection import FLOAT, PARTS, Selection, add_flags, select
from benchmarks.children import ChildError, call, end_on_terminate


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks; return 0, or 130 after Ctrl-C."""
    args = _parse(arguments)
    facts = reports.machine()
    results = Results.load(args.json)
    wanted = select(args)
    status = 0
    try:
        _run(wanted, results, facts, args)
    except KeyboardInterrupt:
        status = 130
    _show(wanted, results, facts)
    return status


def _run(
    wanted: Selection, results: Results, facts: dict[str, Any], args: argparse.Namespace
) -> None:
    """Measure what is not known yet, until the time is over."""
    end = time.monotonic() + 60 * args.minutes
    for task, methods in wanted.by_task().items():
        todo = [m for m in methods if args.again or not results.known(task, m.name, m.text)]
        if not todo:
            continue
        with tempfile.TemporaryDirectory(prefix="accuracy-") as folder:
            # The artefact of floats is what the others are timed beside.
            rest: list[Method | None] = [None, *todo]
            while rest and time.monotonic() < end:
                few, rest = rest[: args.together], rest[args.together :]
                rows = _rows(task, few, Path(folder, "float.so"), args)
                for row in rows:
                    results.put(row, facts)
                if few[0] is None and rows[0].get("verdict") is None:
                    break  # without its model or data nothing else will do


def _rows(
    task: str, methods: Sequence[Method | None], path: Path, args: argparse.Namespace
) -> list[Row]:
    """Measure some methods in one process; where that ends badly, each in one of its own."""
    start = time.monotonic()
    names = [FLOAT if method is None else method.name for method in methods]
    reports.note(f"{task}: {'; '.join(names)} ...")
    job = Job(
        task=task,
        methods=tuple(methods),
        float_path=str(path),
        seconds=args.seconds,
        rounds=args.rounds,
    )
    limit = args.limit * len(methods)
    found: list[Row]
    try:
        found = call("benchmarks.accuracy.measure", asdict(job), limit)["rows"]
    except ChildError as err:
        if len(methods) > 1:
            return [row for method in methods for row in _rows(task, [method], path, args)]
        found = [{"reason": str(err)}]
    texts = ["" if method is None else method.text for method in methods]
    rows = [
        {"task": task, "method": name, "text": text, **row}
        for name, text, row in zip(names, texts, found, strict=True)
    ]
    for row in rows:
        told = " ".join(str(cell) for cell in table.make_rows([row])[0][2:])
        reports.note(f"    {told}")
    reports.note(f"    {time.monotonic() - start:.0f} s")
    return rows


def _show(wanted: Selection, results: Results, facts: dict[str, Any]) -> None:
    """Print what is known of what was asked for."""
    ours = [(task, method.name) for task, method in wanted.recipes.items()]
    lines = recipe_table.make_rows(results.rows[key] for key in ours if key in results.rows)
    if lines:
        grid = reports.make_table("the fastest that is good enough", recipe_table.COLUMNS, lines)
        reports.show(grid, recipe_table.footer())
    rows = [
        results.rows[task, name]
        for task, names in wanted.plain.items()
        for name in (FLOAT, *names)
        if (task, name) in results.rows
    ]
    if rows:
        grid = reports.make_table("accuracy of artefacts", table.COLUMNS, table.make_rows(rows))
        reports.show(grid, table.footer())
    for task in wanted.sparse:
        lines = sparse_table.make_rows(task, results.rows, wanted.cells, wanted.sparsities)
        if lines:
            title = f"{task}: what zeros cost and buy"
            heads = sparse_table.columns(wanted.sparsities)
            reports.show(reports.make_table(title, heads, lines), sparse_table.footer())
    for thin in wanted.thin:
        for task in thin.tasks:
            lines = sparse_table.grid_rows(task, results.rows, thin.cells, thin.columns)
            if lines:
                heads = ["", *(f">{column} % {thin.head}" for column in thin.columns)]
                grid = reports.make_table(f"{task}: {thin.title}", heads, lines)
                reports.show(grid, sparse_table.footer()[:1])
    reports.show_lines([reports.describe_machine(facts)])


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy", description="Judge compressed models on real data."
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    add_flags(parser)
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="start no row later; 0 only prints"
    )
    parser.add_argument("--again", action="store_true", help="measure what is known, too")
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="timed, of each artefact; 0 times nothing"
    )
    parser.add_argument("--rounds", type=int, default=10, help="turns in which they are spent")
    parser.add_argument("--json", type=Path, default=Path("out/accuracy.json"))
    parser.add_argument(
        "--limit", type=float, default=3600.0, metavar="SECONDS", help="for one row of the table"
    )
    parser.add_argument(
        "--together", type=int, default=6, metavar="N", help="rows measured by one process"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    end_on_terminate()
    sys.exit(main())
