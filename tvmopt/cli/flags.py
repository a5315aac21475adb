"""Options that several verbs share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from tvmopt.cli.guard import DEBUG


def _set_debug(wanted: bool) -> bool:
    if wanted:
        os.environ[DEBUG] = "1"
    return wanted


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Debug = Annotated[
    bool,
    typer.Option(
        "--debug",
        callback=_set_debug,
        is_eager=True,
        help=f"Show where an error came from; {DEBUG}=1 does the same.",
    ),
]
Threads = Annotated[
    int, typer.Option("--threads", metavar="N", help="Threads that may run a kernel.")
]
Artefact = Annotated[
    Path, typer.Argument(metavar="model.so", help="What tvmopt compile wrote.", show_default=False)
]
Target = Annotated[str, typer.Option("--target", "-t", metavar="NAME", help="See tvmopt targets.")]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        metavar="NAME=1x3x224x224",
        help="Fix the shape of an input that leaves dimensions open; once for each input.",
        show_default=False,
    ),
]
Input = Annotated[
    Path | None,
    typer.Option(
        "--input",
        metavar="in.npz",
        help="Arrays named as the inputs; the first batch is used. Default: random, seed 0.",
        show_default=False,
    ),
]
