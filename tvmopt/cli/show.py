"""Print results: tables for people, one JSON document for machines, progress on stderr."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

Step = Callable[[int, int], None]

WIDE = 200  # columns where there is no terminal: a pipe must not get broken lines


def console() -> Console:
    """Return a console for stdout, as wide as the terminal."""
    wide = None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDE
    return Console(width=wide, highlight=False)


def heading(text: str) -> None:
    """Print a line that introduces what follows."""
    console().print(f"[bold]{escape(text)}[/bold]")


def line(text: str) -> None:
    """Print one line as it is."""
    console().print(escape(text), soft_wrap=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table.

    A column whose head starts with ``>`` holds numbers; one with ``+`` is wrapped between words, or
    cut within one, where the terminal is too narrow, so that the others can be read whole.
    """
    cells = [list(row) for row in rows]
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, head in enumerate(columns):
        name = head.lstrip(">+")
        gives_way = head.startswith("+")
        longest = max(len(text) for text in (name, *(row[i] for row in cells)))
        grid.add_column(
            name,
            justify="right" if head.startswith(">") else "left",
            no_wrap=not gives_way,
            overflow="ellipsis",
            min_width=None if gives_way else longest,
        )
    for row in cells:
        grid.add_row(*map(escape, row))
    console().print(grid)


def facts(pairs: Iterable[tuple[str, str]]) -> None:
    """Print names and values in two columns."""
    rows = list(pairs)
    width = max(len(name) for name, _ in rows)
    out = console()
    for name, value in rows:
        out.print(f"[dim]{escape(name):{width}}[/dim]  {escape(value)}", soft_wrap=True)


def document(value: Mapping[str, Any]) -> None:
    """Print a JSON document; what is not finite becomes null, which JSON can hold."""
    sys.stdout.write(json.dumps(_plain(value), indent=1, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@contextmanager
def progress(text: str, *, quiet: bool) -> Iterator[Step]:
    """Show a bar on stderr if that is a terminal; call the result with (done, in all).

    The bar is drawn only by these calls, by no thread: it must not disturb what is measured.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False)
    with bar:
        task = bar.add_task(text, total=None)

        def step(done: int, total: int) -> None:
            if total < 200 or done % (total // 100) == 0 or done == total:
                bar.update(task, completed=done, total=total)
                bar.refresh()

        yield step


@contextmanager
def stages(*, quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar on stderr, if that is a terminal, for work in stages.

    Yields:
        What takes (what is under way, how much is done, how much there is).
    """
    if quiet or not sys.stderr.isatty():
        yield lambda _what, _done, _total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("looking at the model", total=None)

        def step(what: str, done: int, total: int) -> None:
            bar.update(task, description=escape(what), completed=done, total=total)

        yield step


@contextmanager
def spinner(text: str, *, quiet: bool) -> Iterator[None]:
    """Show on stderr that something goes on, if that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield
        return
    with Console(stderr=True).status(text):
        yield
