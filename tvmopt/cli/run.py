"""``tvmopt run``: feed a file of samples through an artefact."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from tvmopt.cli import flags


def run(
    model: flags.Artefact,
    input_: Annotated[
        Path,
        typer.Option(
            "--input",
            "-i",
            metavar="in.npz",
            help="Arrays named as the inputs, samples along the first axis.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="out.npz",
            help="Gets the outputs by name.",
            show_default=False,
        ),
    ],
    threads: flags.Threads = 1,
    json: flags.Json = False,
    debug: flags.Debug = False,  # noqa: ARG001
) -> None:
    """Run a compiled model on samples from a file."""
    from tvmopt import runtime, samples
    from tvmopt.cli import show, units
    from tvmopt.cli.files import check_writable, save_npz
    from tvmopt.metrics.samples import predict

    check_writable(output)
    with runtime.open(model, threads) as net:
        inputs = samples.select_inputs(net.inputs, samples.load_npz(input_), str(input_))

        def once(given: Mapping[str, Any]) -> Mapping[str, Any]:
            result = net(given)
            return result if isinstance(result, dict) else {net.outputs[0].name: result}

        with show.progress("running", quiet=json) as step:
            outputs = predict(once, net.inputs, inputs, str(input_), step)
    save_npz(output, outputs)
    if json:
        described = [
            {"name": name, "dtype": array.dtype.name, "shape": list(array.shape)}
            for name, array in outputs.items()
        ]
        show.document({"model": str(model), "output": str(output), "outputs": described})
        return
    rows = [(name, a.dtype.name, units.shape(a.shape)) for name, a in outputs.items()]
    show.table(("output", "dtype", "shape"), rows)
    show.line(f"wrote {output}")
