"""Apply a recipe, or say what it would do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvmopt.cli import show, units
from tvmopt.errors import OptionError

if TYPE_CHECKING:
    from tvmopt import Model, Recipe


def check_flags(recipe: str | None, calib: Path | None, *, dry_run: bool) -> None:
    """Refuse flags that mean nothing without ``--recipe``.

    Raises:
        OptionError: One is given and that is not.
    """
    for flag, given in (("--calib", calib is not None), ("--dry-run", dry_run)):
        if given and recipe is None:
            raise OptionError(f"{flag} must come with --recipe, which says what to do")


def apply(model: Model, recipe: Recipe, calib: Path | None, target: str, *, quiet: bool) -> Model:
    """Return the compressed model; a bar says how far it is.

    Raises:
        OptionError: The recipe does not fit the model.
        DataError: There are no samples where it needs some, or they do not fit the model.
    """
    with show.stages(quiet=quiet) as progress:
        return model.apply(recipe, calibration=calib, target=target, progress=progress)


def forecast(model: Model, recipe: Recipe, calib: Path | None, target: str, *, json: bool) -> None:
    """Print what the recipe would do; samples, where they are given, are checked.

    Raises:
        OptionError: The recipe does not fit the model.
        DataError: The samples do not.
    """
    with show.spinner(f"predicting recipe {recipe.name!r} for {target}", quiet=json):
        described = model.forecast(recipe, calibration=calib, target=target).describe()
    if json:
        show.document({"dry_run": True, "recipe": described})
        return
    show.line("dry run: nothing is written")
    print_compression(described)


def print_compression(described: Mapping[str, Any]) -> None:
    """Print the "recipe" of a manifest: what it did to each layer, and why."""
    result = described["result"]
    changed = [layer for layer in result if layer["changed"]]
    bytes_before, bytes_after = (sum(layer["weight_bytes"][i] for layer in result) for i in (0, 1))
    before, after = described["predicted_cycles"]
    learned = described["calibration"]
    show.heading(f"recipe {described['name']}: {len(changed)} of {len(result)} layers compressed")
    show.facts((
        ("what", described["description"] or "as the file says"),
        ("digest", described["sha256"][:16]),
        ("learned from", f"{learned['samples']} samples, digest {learned['sha256'][:16]}"
                         if learned else "no samples"),
        ("weights", f"{units.bytes_(bytes_before)} -> {units.bytes_(bytes_after)}, packed"),
        ("predicted", f"{before / max(after, 1):.2f}x as fast on {described['predicted_for']}"),
    ))  # fmt: skip
    for note in described["notes"]:
        show.line(note)
    rows = [_row(layer) for layer in result]
    show.table(("+layer", "numbers", ">weights", ">predicted", "+why"), rows)


def _row(layer: Mapping[str, Any]) -> tuple[str, ...]:
    cycles, (old, new) = layer["predicted_cycles"], layer["weight_bytes"]
    changed = layer["changed"]
    return (
        layer["layer"],
        _numbers(layer),
        f"{old / max(new, 1):.1f}x smaller" if changed else "",
        f"{cycles[0] / max(cycles[1], 1):.2f}x as fast" if changed and cycles else "",
        layer["reason"],
    )


def _numbers(layer: Mapping[str, Any]) -> str:
    """Return what a layer computes in, how much of it is zero, and what it was made into."""
    parts = [layer["after"]]
    old, new = layer["sparsity"]
    if new > old:
        parts.append(f"{new:.0%} zeros")
    if len(layer["became"]) > 1:
        parts.append(f"{len(layer['became'])} layers")
    return ", ".join(parts)
