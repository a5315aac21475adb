"""The ``tvmopt`` command: every verb in a file of its own, imported when it is called.

Nothing here or at the head of a verb's file imports numpy or tvm: ``tvmopt --help`` must not wait.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from tvmopt import __version__
from tvmopt.cli import bench, compile, demo, eval, flags, guard, inspect, profile, targets  # noqa: A004
from tvmopt.cli import run as run_verb

app = typer.Typer(
    name="tvmopt",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tvmopt {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _tvmopt(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001  (its callback does the work)
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Say which it is."),
    ] = False,
    debug: flags.Debug = False,  # noqa: ARG001
) -> None:
    """Compile ONNX models into stand-alone shared objects, and measure them.

    Exit codes: 0 done, 1 the result falls short of what was asked, 2 bad input, 130 Ctrl-C.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


app.command("demo")(demo.demo)
app.command("inspect")(inspect.inspect)
app.command("compile")(compile.compile)
app.command("run")(run_verb.run)
app.command("bench")(bench.bench)
app.command("profile")(profile.profile)
app.command("eval")(eval.eval)
app.command("targets")(targets.targets)


def run_command(arguments: list[str]) -> int:
    """Run one command line, without the program's name, and return its exit code."""
    return guard.guarded(lambda: app(arguments, prog_name="tvmopt", standalone_mode=False))


def run() -> None:
    """Run this process's command line and exit."""
    sys.exit(run_command(sys.argv[1:]))
