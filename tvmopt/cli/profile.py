"""``tvmopt profile``: where an artefact's time goes."""

from __future__ import annotations

from typing import Annotated

import typer

from tvmopt.cli import flags


def profile(
    model: flags.Artefact,
    threads: flags.Threads = 1,
    runs: Annotated[int, typer.Option("--runs", metavar="N", help="Timed runs.")] = 50,
    input_: flags.Input = None,
    json: flags.Json = False,
    debug: flags.Debug = False,  # noqa: ARG001
) -> None:
    """Time every layer, and compare it with the peak of this machine's core, measured now."""
    from tvmopt.cli import show
    from tvmopt.cli.layers import describe_profile, print_profile
    from tvmopt.metrics import cpus
    from tvmopt.metrics.inputs import given_or_random
    from tvmopt.metrics.layer_times import layer_times

    inputs, source = given_or_random(model, input_)
    with show.spinner("profiling", quiet=json), cpus.pinned(threads):
        profiled = layer_times(model, inputs, threads=threads, runs=runs)
    described = describe_profile(profiled, source)
    show.document(described) if json else print_profile(described)
