"""What ``eval`` says of a model's outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from tvmopt.cli import show, units
from tvmopt.metrics.engines import EngineSpec
from tvmopt.metrics.evaluation import Evaluation


def describe_evaluation(
    evaluation: Evaluation, other: EngineSpec | None, max_drop: float | None
) -> dict[str, Any]:
    """Return an evaluation as JSON can hold it; shares are in [0, 1], ``max_drop`` in points."""
    drops = [score.drop for score in evaluation.scores if score.drop is not None]
    matrix = evaluation.matrix
    return {
        "samples": evaluation.samples,
        "against": None if other is None else other.label,
        "metrics": {
            score.name: {
                "value": score.value,
                "against": score.reference,
                "drop": score.drop,
                "standard_error": score.error,
            }
            for score in evaluation.scores
        },
        "confusion": None if matrix is None else matrix.tolist(),
        "agreement": evaluation.agreement,
        "outputs": {
            name: {**asdict(close), "relative_error": close.relative_error}
            for name, close in evaluation.closeness.items()
        },
        "not_finite": evaluation.not_finite,
        "max_drop": max_drop,
        "falls_short": max_drop is not None and any(100 * drop > max_drop for drop in drops),
    }


def print_evaluation(described: Mapping[str, Any]) -> None:
    """Print what ``describe_evaluation`` returns."""
    against = described["against"]
    show.heading(f"{described['samples']} samples" + (f", against {against}" if against else ""))
    if described["metrics"]:
        _print_scores(described["metrics"], against)
    for name, close in described["outputs"].items():
        show.line(
            f"output {name}: largest difference {close['max_error']:.2e}, "
            f"{close['relative_error']:.1e} of the peak; cosine {close['cosine']:.6f}"
        )
    if described["agreement"] is not None:
        show.line(f"same class as {against}: {units.percent(described['agreement'])} of samples")
    if described["not_finite"]:
        show.line(f"not finite: {described['not_finite']} elements of the outputs")
    if described["falls_short"]:
        show.line(f"falls short: a metric drops by more than {described['max_drop']:g} points")


def _print_scores(metrics: Mapping[str, Any], against: str | None) -> None:
    if against is None:
        values = [(name, units.percent(score["value"])) for name, score in metrics.items()]
        show.table(("metric", ">value"), values)
        return
    rows = [
        (
            name,
            units.percent(score["value"]),
            units.percent(score["against"]),
            f"{100 * -score['drop'] + 0.0:+.2f} ({100 * score['standard_error']:.2f})",
        )
        for name, score in metrics.items()
    ]
    columns = ("metric", ">value", f">{against}", ">points (standard error)")
    show.table(columns, rows)
