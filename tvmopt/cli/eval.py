"""``tvmopt eval``: how good an artefact is on data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tvmopt.cli import flags


def eval(  # noqa: A001  (the verb)
    model: flags.Artefact,
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            metavar="test.npz",
            help="Arrays named as the inputs, samples along the first axis, and labels.",
            show_default=False,
        ),
    ],
    metric: Annotated[
        str,
        typer.Option("--metric", metavar="LIST", help="Which, with commas between."),
    ] = "accuracy,top5,precision,recall,f1",
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="model.onnx[@engine]|other.so",
            help="Compare with this model; an ONNX file runs in ONNX Runtime unless it says "
            "otherwise.",
            show_default=False,
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop",
            metavar="POINTS",
            help="Exit with 1 if any metric is more points below --against.",
            show_default=False,
        ),
    ] = None,
    threads: flags.Threads = 1,
    json: flags.Json = False,
    debug: flags.Debug = False,  # noqa: ARG001
) -> int:
    """Run every sample through a compiled model, and judge its outputs."""
    from tvmopt.cli import show
    from tvmopt.cli.judgement import describe_evaluation, print_evaluation
    from tvmopt.cli.test_set import against_spec, evaluate_file

    names = [name.strip() for name in metric.split(",") if name.strip()]
    other = against_spec(against, max_drop)
    evaluation = evaluate_file(model, data, names, other, threads=threads, quiet=json)
    described = describe_evaluation(evaluation, other, max_drop)
    show.document(described) if json else print_evaluation(described)
    return 1 if described["falls_short"] else 0
