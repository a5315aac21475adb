"""``tvmopt demo``: compress and compile the model that comes along, measure it, write a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tvmopt.cli import flags

RECIPES = ("int8", "w4a8", "sparse-int8")


def demo(
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="DIR", help="Gets the artefacts and report.html."),
    ] = Path("tvmopt-demo"),
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            "--recipe",
            metavar="NAME",
            help="Compress by this one, too; may come several times.",
            show_default=", ".join(RECIPES),
        ),
    ] = None,
    threads: flags.Threads = 1,
    target: flags.Target = "native",
    seconds: Annotated[
        float, typer.Option("--seconds", metavar="S", help="Time each engine so long.")
    ] = 3.0,
    json: flags.Json = False,
    debug: flags.Debug = False,  # noqa: ARG001
) -> None:
    """Compress and compile a small classifier, test it on 10,000 images, race it with rivals."""
    from tvmopt.cli import show
    from tvmopt.cli.demo_report import print_demo, write_report
    from tvmopt.cli.demo_steps import run_demo

    described = run_demo(
        output,
        recipes=recipe or list(RECIPES),
        threads=threads,
        target=target,
        seconds=seconds,
        quiet=json,
    )
    write_report(output / "report.html", described)
    show.document(described) if json else print_demo(described)
