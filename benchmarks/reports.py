"""Tables for people and JSON for machines."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tvmopt.cli.machine import cpu_name

WIDE = 160  # columns where there is no terminal
PACKAGES = ("tvmopt", "apache-tvm", "onnxruntime", "openvino", "numpy")


def make_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> Table:
    """Return a table; a head that starts with ``>`` is of numbers, with ``+`` of text to be folded.

    Nothing in a cell is read as markup: reasons hold brackets.
    """
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for head in columns:
        table.add_column(
            head.lstrip(">+"),
            justify="right" if head.startswith(">") else "left",
            no_wrap=not head.startswith("+"),
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return table


def show(table: Table, footer: Sequence[str]) -> None:
    """Print a table and lines below it."""
    _console().print(table)
    show_lines(footer)


def show_lines(lines: Sequence[str]) -> None:
    """Print lines of text, which the terminal may wrap."""
    for line in lines:
        _console().print(Text(line), soft_wrap=True)


def _console() -> Console:
    wide = None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDE
    return Console(width=wide, highlight=False)


def note(text: str) -> None:
    """Print a line of progress."""
    print(text, file=sys.stderr, flush=True)


def digits(value: float) -> str:
    """Return three significant digits, in plain notation: ``0.0123``, ``1.23``, ``123``."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def ratio(middle: float, q1: float, q3: float) -> str:
    """Return a speed-up and its quartiles."""
    return f"{middle:.2f} ({q1:.2f}-{q3:.2f})"


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean of positive values; at least one."""
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def summarize_ratios(label: str, ratios: Mapping[str, float]) -> str:
    """Return a line with the geometric mean and the worst of some speed-ups by model."""
    if not ratios:
        return f"{label}: no model was timed"
    worst = min(ratios, key=lambda name: ratios[name])
    mean = geometric_mean(list(ratios.values()))
    return (
        f"{label}: geometric mean {mean:.2f}x, worst {ratios[worst]:.2f}x ({worst}), "
        f"{len(ratios)} models timed"
    )


def machine() -> dict[str, Any]:
    """Return what numbers depend on besides the code; the load is that of the start."""
    return {
        "cpu": cpu_name(),
        "cpus": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 2),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def describe_machine(facts: Mapping[str, Any]) -> str:
    """Return ``machine()`` in a line."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return (
        f"{facts['cpu']}, {facts['cpus']} CPUs, load average {facts['load_average']} at the start; "
        f"{versions}"
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a document whole or not at all; numbers that JSON cannot hold become null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(json.dumps(_plain(document), indent=1, allow_nan=False) + "\n")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
