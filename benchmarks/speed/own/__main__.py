"""Time our compressed artefacts beside our float ones: a table and ``out/own.json``.

::

    python -m benchmarks.speed.own
    python -m benchmarks.speed.own --only magika --recipes int8 w4 --threads 1

Samples are plausible inputs, and passes that repair are left out, ``keep-sensitive`` too: where it
finds on real samples that too much is lost, fewer layers are integers than here. A recipe that asks
for what is smaller may be slower; nothing is asserted.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.text import Text

from benchmarks import reports
from benchmarks.cases import Case, locate, select_cases
from benchmarks.children import ChildError, call, end_on_terminate
from benchmarks.speed.own.measure import Job
from benchmarks.zoo.catalogue import UnknownModelError

RECIPES = ("int8", "int8-dynamic", "w4a8", "w4", "sparse-int8")
COLUMNS = (
    *("model", "input", "recipe", ">threads", ">ms", ">/ own fp32", ">predicted"),
    *(">layers", ">size", "+"),
)

Row = Mapping[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks; return 0, 2 (bad arguments) or 130."""
    args = _parse(arguments)
    facts = reports.machine()
    try:
        rows = [_row(case, args) for case in select_cases(args.only, args.group)]
    except UnknownModelError as err:
        reports.note(f"error: {err}")
        return 2
    except KeyboardInterrupt:
        return 130
    title = f"compressed beside own float32 on {facts['cpu']}"
    reports.show(reports.make_table(title, COLUMNS, make_rows(rows)), footer(rows))
    reports.show_lines([reports.describe_machine(facts)])
    reports.write_json(args.json, {"machine": facts, "models": rows})
    return 0


def make_rows(rows: Iterable[Row]) -> list[list[str | Text]]:
    """Return a line of cells for each artefact and number of threads, the slowest ones first."""
    lines = [(ratio["ratio"], _cells(row, ratio)) for row in rows for ratio in row["ratios"]]
    return [cells for _, cells in sorted(lines, key=lambda line: line[0])]


def footer(rows: Sequence[Row]) -> list[str]:
    """Return what the rows come to, what the columns mean, and what is missing."""
    ratios = [(row, ratio) for row in rows for ratio in row["ratios"]]
    found: dict[str, dict[str, float]] = {}
    for row, ratio in ratios:
        label = f"{ratio['recipe']}, {ratio['threads']} threads"
        found.setdefault(label, {})[f"{row['id']} {row['size']}"] = ratio["ratio"]
    missing = [
        f"{row['id']}, {recipe or 'float32'}: {reason}"
        for row in rows
        for recipe, reason in row["reasons"].items()
    ]
    return [
        *(reports.summarize_ratios(label, each) for label, each in found.items()),
        "/ own fp32: the median of the float32 artefact over this one's (quartiles of the rounds); "
        "layers: compressed, of all; size: bytes of this artefact over those of the float32 one",
        *missing,
    ]


def _cells(row: Row, ratio: Row) -> list[str | Text]:
    recipe, value = ratio["recipe"], ratio["ratio"]
    changed, count = row["changed"][recipe]
    style = "green" if value >= 1 else "yellow" if ratio["q3"] >= 1 or not changed else "red"
    return [
        *(row["id"], row["size"], recipe, str(ratio["threads"])),
        reports.digits(ratio["p50_ms"]),
        Text(reports.ratio(value, ratio["q1"], ratio["q3"]), style=style),
        f"{row['predicted'][recipe]:.2f}",
        f"{changed}/{count}",
        f"{row['size_bytes'][recipe] / row['size_bytes']['']:.2f}",
        "" if changed else "as in floats",
    ]


def _row(case: Case, args: argparse.Namespace) -> dict[str, Any]:
    """Measure a model in a process of its own, and say on stderr how it went."""
    start = time.monotonic()
    row: dict[str, Any] = {"id": case.id, "size": case.size, "reasons": {}, "ratios": []}
    found = locate(case.id)
    if found.path is None:
        return {**row, "reasons": {"": f"skipped: {found.reason}"}}
    job = Job(
        id=case.id,
        path=str(found.path),
        shapes=case.shapes,
        recipes=tuple(args.recipes),
        threads=tuple(args.threads),
        seconds=args.seconds,
        rounds=args.rounds,
    )
    try:
        row |= call("benchmarks.speed.own.measure", asdict(job), args.limit)
    except ChildError as err:
        row["reasons"] = {"": str(err)}
    told = [
        f"{recipe} {r['ratio']:.2f}x ({row['changed'][recipe][0]} layers) at {r['threads']}"
        for r in row["ratios"]
        for recipe in (r["recipe"],)
    ]
    said = ", ".join(told) or f"not timed: {row['reasons']}"
    reports.note(f"{case.title}: {said}, {time.monotonic() - start:.0f} s")
    return row


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.speed.own",
        description="Time compressed artefacts beside those of floats.",
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="ID", help="by id (default: all)")
    parser.add_argument("--group", help="all models of a group of the catalogue")
    parser.add_argument("--recipes", nargs="+", default=RECIPES, metavar="NAME", help="by name")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], metavar="N")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each artefact, each time")
    parser.add_argument("--rounds", type=int, default=10, help="turns in which they are spent")
    parser.add_argument("--json", type=Path, default=Path("out/own.json"), help="where to write")
    parser.add_argument(
        "--limit", type=float, default=1800.0, metavar="SECONDS", help="for one model at one shape"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    end_on_terminate()
    sys.exit(main())
