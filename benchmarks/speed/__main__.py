"""Time every model beside ONNX Runtime and OpenVINO: a table, ``out/speed.json`` and a plot.

::

    python -m benchmarks.speed
    python -m benchmarks.speed --only resnet18 magika --threads 1 --seconds 5
    python -m benchmarks.speed --only resnet18 --precision int8 --threads 1

Nothing is asserted: a target that is missed is printed as missed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import reports
from benchmarks.cases import Case, locate, select_cases
from benchmarks.children import ChildError, call, end_on_terminate
from benchmarks.speed import plot, table
from benchmarks.speed.compressed import run as compressed
from benchmarks.speed.compressed.works import WORKS, Work
from benchmarks.speed.measure import Job
from benchmarks.speed.targets import target_of
from benchmarks.zoo.catalogue import UnknownModelError
from tvmopt.metrics.engines import RIVALS, EngineSpec

Row = dict[str, Any]

PRECISIONS = ("fp32", "int8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks; return 0, 2 (bad arguments, or no rival) or 130."""
    args = _parse(arguments)
    rivals = [r for r in RIVALS if EngineSpec(engine=r, path=Path()).installed]
    if not rivals:
        reports.note(f"error: one of {', '.join(RIVALS)} must be installed, none is")
        return 2
    facts = reports.machine()
    try:
        cases, works = select(args.only, args.precision)
        rows = run(cases, rivals, args)
        small = compressed.run(works, args)
    except UnknownModelError as err:
        reports.note(f"error: {err}")
        return 2
    except KeyboardInterrupt:
        return 130
    _report(rows, small, rivals, facts, args)
    return 0


def select(ids: Sequence[str], precisions: Sequence[str]) -> tuple[list[Case], list[Work]]:
    """Return the float models and the compressed ones that are asked for.

    Raises:
        UnknownModelError: An id belongs to neither.
    """
    floats = {case.id for case in select_cases([], None)}
    if unknown := [name for name in ids if name not in floats | {work.id for work in WORKS}]:
        select_cases(unknown, None)  # a model of another group, or none: then it raises
        floats |= set(unknown)
    wanted = [name for name in ids if name in floats]
    cases = select_cases(wanted, None) if "fp32" in precisions and (wanted or not ids) else []
    return cases, compressed.select(ids) if "int8" in precisions else []


def run(cases: Sequence[Case], rivals: Sequence[str], args: argparse.Namespace) -> list[Row]:
    """Measure each case in a process of its own, and say on stderr how it went."""
    rows = []
    for number, case in enumerate(cases, 1):
        start = time.monotonic()
        reports.note(f"[{number}/{len(cases)}] {case.title} ...")
        row = run_case(case, rivals, args)
        rows.append(row)
        ratios = [f"{t['ratio']:.2f}x at {t['threads']}" for t in row.get("timings", ())]
        said = "; ".join([", ".join(ratios) or "not timed", *filter(None, [row.get("reason")])])
        reports.note(f"    {said}, {time.monotonic() - start:.0f} s")
    return rows


def run_case(case: Case, rivals: Sequence[str], args: argparse.Namespace) -> Row:
    """Return a row; where nothing was timed, with the reason."""
    asked = {str(count): target_of(case.id, count) for count in args.threads}
    row: Row = {"id": case.id, "shapes": case.shapes, "size": case.size, "asked": asked}
    found = locate(case.id)
    if found.path is None:
        return {**row, "reason": f"skipped: {found.reason}"}
    job = Job(
        id=case.id,
        path=str(found.path),
        shapes=case.shapes,
        rivals=tuple(rivals),
        threads=tuple(args.threads),
        seconds=args.seconds,
        rounds=args.rounds,
    )
    try:
        return {**row, **call("benchmarks.speed.measure", asdict(job), args.limit)}
    except ChildError as err:
        return {**row, "reason": str(err)}


def _report(
    rows: Sequence[Row],
    small: Sequence[Row],
    rivals: Sequence[str],
    facts: dict[str, Any],
    args: argparse.Namespace,
) -> None:
    machine = reports.describe_machine(facts)
    if rows:
        title = f"speed on {facts['cpu']}"
        lines = table.make_rows(rows, args.threads, rivals)
        grid = reports.make_table(title, table.columns(rivals), lines)
        reports.show(grid, table.footer(rows, args.threads))
    if small:
        compressed.show(small, facts["cpu"], args.threads)
    reports.show_lines([machine])
    schedule = {"seconds": args.seconds, "rounds": args.rounds}
    document = {"machine": facts, "threads": args.threads, **schedule, "models": rows}
    document["compressed"] = small
    reports.write_json(args.json, document)
    picture = args.json.with_suffix(".svg")
    drawn = plot.draw(rows, args.threads, machine, picture)
    reports.note(f"wrote {args.json}" + (f" and {picture}" if drawn else ""))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed", description="Time models beside their rivals."
    )
    parser.add_argument(
        "--only", "--models", nargs="+", default=[], metavar="ID", help="by id (default: all)"
    )
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=PRECISIONS,
        default=PRECISIONS,
        help="models as they are, compressed ones, or both",
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each engine, each time")
    parser.add_argument("--rounds", type=int, default=10, help="turns in which they are spent")
    parser.add_argument(
        "--json",
        type=Path,
        default=Path("out/speed.json"),
        help="where to write; the plot goes beside it",
    )
    parser.add_argument(
        "--limit", type=float, default=1800.0, metavar="SECONDS", help="for one model at one shape"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    end_on_terminate()
    sys.exit(main())
