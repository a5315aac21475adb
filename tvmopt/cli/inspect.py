"""``tvmopt inspect``: say what a model or an artefact holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tvmopt.cli import flags


def inspect(
    model: Annotated[
        Path,
        typer.Argument(metavar="model.onnx|model.so", help="What to look at.", show_default=False),
    ],
    shape: flags.Shapes = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="List every layer of an ONNX model, too.")
    ] = False,
    json: flags.Json = False,
    debug: flags.Debug = False,  # noqa: ARG001
) -> None:
    """Show a model's operators, sizes and work, or an artefact's manifest; no code is loaded."""
    from tvmopt.cli.describe_artefact import describe_artefact, print_artefact
    from tvmopt.cli.show import document

    if _is_elf(model):
        described = describe_artefact(model)
        return document(described) if json else print_artefact(described)
    # Reading ONNX takes a second of imports that an artefact does without.
    from tvmopt.cli.describe_onnx import describe_onnx, print_onnx
    from tvmopt.cli.shapes import parse_shapes

    described = describe_onnx(model, parse_shapes(shape))
    return document(described) if json else print_onnx(described, layers=layers)


def _is_elf(path: Path) -> bool:
    """Say whether to take ``path`` for an artefact; what cannot be read is told by its reader."""
    try:
        with path.open("rb") as file:
            return file.read(4) == b"\x7fELF"
    except OSError:
        return path.suffix == ".so"
