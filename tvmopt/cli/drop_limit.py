"""``--max-drop``: compress as far as a measured loss allows."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvmopt.cli import show
from tvmopt.errors import DataError, OptionError

if TYPE_CHECKING:
    from tvmopt import Model, Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class DropLimit:
    """How much may be lost, and on what that is measured.

    Attributes:
        points: Of accuracy, or of samples that get another class where there are no labels.
        data: Samples, and labels if there are any.
        calib: What the recipe learns from.
    """

    points: float
    data: Path
    calib: Path


def read_limit(
    recipe: str | None,
    calib: Path | None,
    max_drop: float | None,
    eval_data: Path | None,
    *,
    dry_run: bool,
) -> DropLimit | None:
    """Read ``--max-drop`` and ``--eval-data``; None where they are not given.

    Raises:
        OptionError: One comes without the other, without ``--recipe`` or ``--calib``, with
            ``--dry-run``, or the drop is no number of points.
    """
    if max_drop is None and eval_data is None:
        return None
    if max_drop is None or eval_data is None:
        raise OptionError("--max-drop and --eval-data must come together, got one of them")
    if recipe is None or calib is None:
        raise OptionError("--max-drop must come with --recipe and --calib, by which layers rank")
    if dry_run:
        raise OptionError("--max-drop must not come with --dry-run: a drop is measured")
    if not (math.isfinite(max_drop) and max_drop >= 0):
        raise OptionError(f"--max-drop must be at least 0 points, got {max_drop!r}")
    return DropLimit(points=max_drop, data=eval_data, calib=calib)


def apply_within(
    model: Model, recipe: Recipe, limit: DropLimit, target: str, *, quiet: bool
) -> tuple[Model, dict[str, Any]]:
    """Return the model compressed as far as the limit allows, and what was measured.

    Raises:
        TvmoptError: The recipe or the samples do not fit the model, these are no test of a
            classifier, or the target is none of this machine.
    """
    import tvmopt

    with tempfile.TemporaryDirectory(prefix="tvmopt-drop-") as name:
        measure = _Measure(model, limit, target, Path(name))
        with show.stages(quiet=quiet) as progress:
            small, kept = tvmopt.apply_within(
                model,
                recipe,
                measure,
                limit.points,
                calibration=limit.calib,
                target=target,
                progress=progress,
            )
    return small, {
        "points": limit.points,
        "drop": kept.drop,
        "holds": kept.holds,
        "kept": sorted(kept.kept),
        "measured": [{"kept": sorted(one.kept), "drop": one.drop} for one in kept.trials],
    }


class _Measure:
    """What a model loses on a file of samples beside the one of floats, in points."""

    def __init__(self, floats: Model, limit: DropLimit, target: str, folder: Path) -> None:
        self._limit, self._target, self._folder = limit, target, folder
        self._floats = self._artefact(floats, "floats.so")

    def __call__(self, model: Model) -> float:
        from tvmopt.cli.test_set import evaluate_file
        from tvmopt.metrics.engines import EngineSpec

        found = evaluate_file(
            self._artefact(model, "small.so"),
            self._limit.data,
            ["accuracy"],
            EngineSpec(engine="tvmopt", path=self._floats),
            threads=1,
            quiet=True,
        )
        if found.scores:
            return 100 * float(found.score("accuracy").drop or 0.0)
        if found.agreement is None:
            raise DataError(
                f"{self._limit.data}: must hold labels, or the model must give scores of classes, "
                "for a drop to be measured"
            )
        return 100 * (1 - found.agreement)

    def _artefact(self, model: Model, name: str) -> Path:
        import tvmopt

        return tvmopt.compile(model, self._target).save(self._folder / name)


def print_limit(described: Mapping[str, Any]) -> None:
    """Print how much is lost, and which layers stay in floats for it."""
    kept = ", ".join(described["kept"]) or "none"
    if described["holds"]:
        show.line(f"drop {described['drop']:.2f} points, at most {described['points']:g} allowed")
    else:
        show.line(
            f"falls short: a drop of {described['points']:g} points cannot be held, the closest is "
            f"{described['drop']:.2f}"
        )
    show.line(f"kept in floats for it: {kept}; artefacts measured: {len(described['measured'])}")
