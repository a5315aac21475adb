"""``tvmopt targets``: the machines that tvmopt compiles for."""

from __future__ import annotations

from typing import Annotated

import typer

from tvmopt.cli import flags


def targets(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="Show all that is known of this one."),
    ] = None,
    json: flags.Json = False,
    debug: flags.Debug = False,  # noqa: ARG001
) -> None:
    """List targets, or show one; native is what was detected on this machine."""
    from dataclasses import asdict

    from tvmopt.cli import show
    from tvmopt.targets import TARGETS, resolve

    if name is not None:
        facts = asdict(resolve(name))
        show.document(facts) if json else _print_one(facts)
        return
    all_ = [asdict(resolve(one)) for one in ("native", *sorted(TARGETS))]
    all_[0]["name"] = "native"
    show.document({"targets": all_}) if json else _print_all(all_)


def _print_one(facts: dict) -> None:
    from tvmopt.cli import show

    show.heading(facts["name"])
    show.facts((field.replace("_", " "), _spelled(value)) for field, value in facts.items())


def _spelled(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)


def _print_all(all_: list[dict]) -> None:
    from tvmopt.cli import show

    rows = (
        (
            one["name"],
            one["triple"],
            one["cpu"],
            str(one["cores"]),
            f"{one['vector_bits']} bit",
            f"{one['l1d_bytes'] // 1024} KiB",
            f"{one['l2_bytes'] // 1024} KiB",
            f"{one['l3_bytes'] / 2**20:g} MiB",
        )
        for one in all_
    )
    show.table(("name", "+triple", "+cpu", ">cores", ">vector", ">L1d", ">L2", ">L3"), rows)
