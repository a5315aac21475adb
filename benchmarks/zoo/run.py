"""Compile, check and time the zoo: one table, ``out/zoo.json``, and 1 if a model is wrong.

::

    python -m benchmarks.zoo.run                     # the main group, 1 thread
    python -m benchmarks.zoo.run magika --threads 2  # one model, 1 thread and 2
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
from benchmarks.cases import Case, TimedJob, locate, select_cases
from benchmarks.children import ChildError, call, end_on_terminate
from benchmarks.zoo.catalogue import UnknownModelError
from benchmarks.zoo.measure import RIVAL
from benchmarks.zoo.table import columns, footer, make_rows
from tvmopt.errors import TvmoptError
from tvmopt.metrics.engines import EngineSpec, require

SECONDS, ROUNDS = 1.0, 7
QUICK_SECONDS, QUICK_ROUNDS = 0.2, 3

Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks; return 0, 1 (a model failed), 2 (bad arguments) or 130."""
    args = _parse(arguments)
    try:
        cases = select_cases(args.ids, args.group)
        require(EngineSpec(engine=RIVAL, path=Path(__file__)))
        facts = reports.machine()
        rows = run(cases, args)
    except (UnknownModelError, TvmoptError) as err:
        reports.note(f"error: {err}")
        return 2
    except KeyboardInterrupt:
        return 130
    threads = _threads(args)
    title = f"the zoo, compiled for {facts['cpu']}, beside ONNX Runtime"
    table = reports.make_table(title, columns(threads), make_rows(rows, threads))
    reports.show(table, [*footer(rows, threads), reports.describe_machine(facts)])
    reports.write_json(args.json, {"machine": facts, "threads": list(threads), "models": rows})
    return int(any(row["status"] == "failed" for row in rows))


def run(cases: Sequence[Case], args: argparse.Namespace) -> list[Row]:
    """Measure each case in a process of its own, and say on stderr how it went."""
    rows = []
    for number, case in enumerate(cases, 1):
        start = time.monotonic()
        reports.note(f"[{number}/{len(cases)}] {case.title} ...")
        row = run_case(case, args)
        rows.append(row)
        reports.note(f"    {_outcome(row)}, {time.monotonic() - start:.0f} s")
    return rows


def run_case(case: Case, args: argparse.Namespace) -> Row:
    """Return a row: a model that cannot be had is skipped, one that crashes or hangs has failed."""
    row: Row = {"id": case.id, "shapes": case.shapes, "size": case.size}
    found = locate(case.id)
    if found.path is None:
        return {**row, "status": "skipped", "reason": found.reason}
    job = TimedJob(
        id=case.id,
        path=str(found.path),
        shapes=case.shapes,
        threads=_threads(args),
        seconds=QUICK_SECONDS if args.quick else SECONDS,
        rounds=QUICK_ROUNDS if args.quick else ROUNDS,
    )
    try:
        return {**row, **call("benchmarks.zoo.measure", asdict(job), args.limit)}
    except ChildError as err:
        return {**row, "status": "failed", "reason": str(err)}


def _outcome(row: Row) -> str:
    ratios = [f"{t['ratio']:.2f}x at {t['threads']}" for t in row.get("timings", ())]
    text = ", ".join([row["status"], *ratios])
    return f"{text}: {row['reason']}" if row["status"] != "ok" else text


def _threads(args: argparse.Namespace) -> tuple[int, ...]:
    return tuple(dict.fromkeys((1, args.threads)))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.zoo.run", description="Compile, check and time the zoo."
    )
    parser.add_argument("ids", nargs="*", help="models by id (default: the main group)")
    parser.add_argument("--group", choices=["main", "later"], help="all models of a group")
    parser.add_argument("--threads", type=int, default=1, help="measure at so many too")
    parser.add_argument("--json", type=Path, default=Path("out/zoo.json"), help="where to write")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter turns")
    parser.add_argument(
        "--limit", type=float, default=300.0, metavar="SECONDS", help="for one model at one shape"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    end_on_terminate()
    sys.exit(main())
