"""Compress models in many ways and judge each artefact on real data: a table, and JSON.

::

    python -m benchmarks.accuracy                                  # everything: hours
    python -m benchmarks.accuracy --only fashion_mnist --bits 8 4 --repairs none gptq --recipes int8

Nothing is asserted: what is missed is printed as missed. The JSON file is written anew after each
row, so that an interrupted run leaves what it found.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import reports
from benchmarks.accuracy import table
from benchmarks.accuracy.measure import Job
from benchmarks.accuracy.methods import BITS, NAMED, REPAIRS, Method, named, static
from benchmarks.accuracy.tasks import TASKS
from benchmarks.children import ChildError, call, end_on_terminate

FLOAT = "float32"

Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks; return 0, or 130 after Ctrl-C."""
    args = _parse(arguments)
    facts = reports.machine()
    rows: list[Row] = []
    status = 0
    try:
        for task in args.only:
            _run_task(task, select_methods(args), rows, facts, args)
    except KeyboardInterrupt:
        status = 130
    grid = reports.make_table("accuracy of artefacts", table.COLUMNS, table.make_rows(rows))
    reports.show(grid, [*table.footer(), reports.describe_machine(facts)])
    return status


def select_methods(args: argparse.Namespace) -> list[Method]:
    """Return the methods of the command line, named recipes first."""
    grid = [static(bits, repair) for bits in args.bits for repair in args.repairs]
    return [*map(named, args.recipes), *grid]


def _run_task(
    task: str,
    methods: Sequence[Method],
    rows: list[Row],
    facts: dict[str, Any],
    args: argparse.Namespace,
) -> None:
    """Add a row for the float model and each method."""
    with tempfile.TemporaryDirectory(prefix="accuracy-") as folder:
        for method in (None, *methods):
            row = _run(task, method, Path(folder, "float.so"), args)
            rows.append(row)
            reports.write_json(args.json, {"machine": facts, "rows": rows})
            if method is None and row.get("verdict") is None:
                return  # without its model or data nothing else will do


def _run(task: str, method: Method | None, path: Path, args: argparse.Namespace) -> Row:
    name = FLOAT if method is None else method.name
    start = time.monotonic()
    reports.note(f"{task}, {name} ...")
    job = Job(
        task=task, method=method, float_path=str(path), seconds=args.seconds, rounds=args.rounds
    )
    row: Row = {"task": task, "method": name}
    if method is not None:
        row |= {"bits": method.bits, "repair": method.repair}
    try:
        row |= call("benchmarks.accuracy.measure", asdict(job), args.limit)
    except ChildError as err:
        row["reason"] = str(err)
    told = " ".join(str(cell) for cell in table.make_rows([row])[0][3:])
    reports.note(f"    {told}, {time.monotonic() - start:.0f} s")
    return row


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy", description="Judge compressed models on real data."
    )
    parser.add_argument("--only", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK")
    parser.add_argument("--bits", nargs="*", type=int, choices=BITS, default=BITS, metavar="N")
    parser.add_argument("--repairs", nargs="*", choices=REPAIRS, default=list(REPAIRS))
    parser.add_argument("--recipes", nargs="*", default=NAMED, metavar="NAME", help="named recipes")
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="timed, of each artefact; 0 times nothing"
    )
    parser.add_argument("--rounds", type=int, default=10, help="turns in which they are spent")
    parser.add_argument("--json", type=Path, default=Path("out/accuracy.json"))
    parser.add_argument(
        "--limit", type=float, default=3600.0, metavar="SECONDS", help="for one row of the table"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    end_on_terminate()
    sys.exit(main())
