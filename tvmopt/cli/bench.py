"""``tvmopt bench``: an artefact's speed beside its rivals'."""

from __future__ import annotations

from typing import Annotated

import typer

from tvmopt.cli import flags


def bench(
    model: flags.Artefact,
    rival: Annotated[
        list[str] | None,
        typer.Option(
            "--rival",
            metavar="model.onnx@onnxruntime",
            help="Compare with this file in that engine (onnxruntime, openvino), or with another "
            ".so; repeatable.",
            show_default=False,
        ),
    ] = None,
    threads: flags.Threads = 1,
    streams: Annotated[
        int,
        typer.Option(
            "--streams", metavar="N", help="Instances that run at once, each in its process."
        ),
    ] = 1,
    seconds: Annotated[
        float, typer.Option("--seconds", metavar="S", help="Time each engine so long.")
    ] = 3.0,
    repeat: Annotated[
        int | None,
        typer.Option(
            "--repeat", metavar="N", help="Time N runs of each engine.", show_default="--seconds"
        ),
    ] = None,
    input_: flags.Input = None,
    json: flags.Json = False,
    debug: flags.Debug = False,  # noqa: ARG001
) -> None:
    """Time a compiled model, and rivals in turns with it, each engine in a process of its own."""
    from tvmopt.cli import show
    from tvmopt.cli.timings import describe_timings, print_timings
    from tvmopt.metrics import engines, turns
    from tvmopt.metrics.inputs import given_or_random

    specs = [engines.EngineSpec(engine="tvmopt", path=model)]
    specs += [engines.parse(text) for text in rival or ()]
    schedule = turns.Schedule(seconds=seconds, repeat=repeat)
    inputs, source = given_or_random(model, input_)
    with show.progress("turns", quiet=json) as step:
        results = turns.compare(
            specs, inputs, threads=threads, streams=streams, schedule=schedule, progress=step
        )
    described = describe_timings(results, source)
    show.document(described) if json else print_timings(described)
