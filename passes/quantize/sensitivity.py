"""Find which layers to leave in floats so that a net keeps its accuracy.

Layers are ranked by what each of them, quantized alone, does to the *outputs* of the net; an error
in the middle may die out or grow on the way. Then the fewest of the worst are kept in floats for
which the drop, measured anew for each trial, holds. How an effect or a drop is measured is the
caller's: these functions decide what is tried.

Sources: B. Wu et al., "Mixed precision quantization of ConvNets via differentiable neural
architecture search", arXiv 1812.00090 (2018), and Z. Dong et al., "HAWQ: Hessian aware quantization
of neural networks with mixed precision", ICCV 2019, for layers that differ in sensitivity; the
measure on the outputs and the search are derived here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tvmopt.errors import DataError, OptionError
from tvmopt.report import Report

Outputs = Iterable[np.ndarray]
"""One array for each batch, the same batches in the same order whenever it is iterated."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerEffect:
    """What one layer, quantized alone, does to the outputs.

    Attributes:
        layer: Its name.
        effect: The distance of the outputs from those of the floats, at least 0.
    """

    layer: str
    effect: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One measurement.

    Attributes:
        kept: Layers in floats.
        drop: What was lost, in the caller's unit.
    """

    kept: frozenset[str]
    drop: float


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptLayers:
    """Which layers stay in floats.

    Attributes:
        kept: Their names.
        drop: What is lost with these, in the caller's unit.
        holds: Whether that is at most what was allowed. If not, ``kept`` and ``drop`` are the
            closest that was found.
        trials: All that was measured, in order.
    """

    kept: frozenset[str]
    drop: float
    holds: bool
    trials: tuple[Trial, ...]


def output_distance(got: Outputs, wanted: Outputs) -> float:
    """Return the squared error of outputs as a share of the square of those wanted.

    Args:
        got: The outputs, batch by batch; only one batch is held at a time.
        wanted: Those of the floats.

    Raises:
        DataError: There are no outputs, or some are not finite.
    """
    error = total = 0.0
    count = 0
    for y, y_wanted in zip(got, wanted, strict=True):
        exact = y_wanted.astype(np.float64)
        error += float(np.sum(np.square(y - exact)))
        total += float(np.sum(np.square(exact)))
        count += 1
    if count == 0 or not np.isfinite(error) or not np.isfinite(total):
        raise DataError(
            f"outputs must be finite and at least one batch, got {count} batches and a squared "
            f"error of {error:g}; look at the samples"
        )
    return error / (total or 1.0)


def rank_layers(
    layers: Sequence[str], effect: Callable[[str], float], report: Report
) -> tuple[LayerEffect, ...]:
    """Rank layers by what each, quantized alone, does to the outputs.

    Args:
        layers: Names, each once.
        effect: Quantizes one layer, runs the samples once, and returns the distance of the outputs,
            such as ``output_distance``; it is called once for each layer.
        report: Takes each effect.

    Returns:
        The effects, the greatest first; those that tie in the order of ``layers``.

    Raises:
        OptionError: A layer is named twice.
        DataError: An effect is not a number.
    """
    if len(set(layers)) != len(layers):
        twice = sorted({name for name in layers if list(layers).count(name) > 1})
        raise OptionError(f"layers must be named once, got {', '.join(map(repr, twice))} twice")
    found = []
    for name in layers:
        value = float(effect(name))
        if not np.isfinite(value):
            raise DataError(f"layer {name!r}: its effect must be a number, got {value}")
        found.append(LayerEffect(layer=name, effect=value))
    found.sort(key=lambda one: -one.effect)
    for place, one in enumerate(found, 1):
        report.add(
            "RankLayers",
            one.layer,
            applied=True,
            reason=f"alone it moves the outputs by {one.effect:.3g}, place {place} of {len(found)}",
        )
    return tuple(found)


def keep_worst(
    ranked: Sequence[LayerEffect],
    drop: Callable[[frozenset[str]], float],
    most: float,
    report: Report,
) -> KeptLayers:
    """Keep the fewest of the worst layers in floats for which the drop holds.

    The number of layers is doubled until the drop holds, then halved in between: a drop that does
    not fall steadily with each layer is met, if not always by the fewest. About twice the
    logarithm of the number of layers is measured.

    Args:
        ranked: What ``rank_layers`` returns.
        drop: Keeps these layers in floats and returns what is lost, in any unit.
        most: The most that may be lost, in that unit.
        report: Takes what was kept and why.

    Returns:
        The layers; whether the drop holds, and if not even with all layers in floats, the closest.

    Raises:
        OptionError: ``most`` is not a number.
        DataError: A drop is not a number.
    """
    if not np.isfinite(most):
        raise OptionError(f"the greatest drop must be a number, got {most!r}")
    trials: dict[int, Trial] = {}

    def holds(count: int) -> bool:
        if count not in trials:
            kept = frozenset(one.layer for one in ranked[:count])
            lost = float(drop(kept))
            if not np.isfinite(lost):
                raise DataError(f"the drop must be a number, got {lost} with {count} layers kept")
            trials[count] = Trial(kept=kept, drop=lost)
        return trials[count].drop <= most

    failed, good = -1, next((count for count in _doubling(len(ranked)) if holds(count)), None)
    if good is not None:
        failed = max((count for count in trials if count < good), default=-1)
        while good - failed > 1:
            middle = (failed + good) // 2
            good, failed = (middle, failed) if holds(middle) else (good, middle)
    # Of trials that lose the same, the one that keeps fewer layers is closer to what was asked.
    best = good if good is not None else min(trials, key=lambda n: (trials[n].drop, n))
    result = KeptLayers(
        kept=trials[best].kept,
        drop=trials[best].drop,
        holds=good is not None,
        trials=tuple(trials.values()),
    )
    _note(result, ranked, most, report)
    return result


def _doubling(total: int) -> Iterator[int]:
    """Yield 0, 1, 2, 4 ... and at last ``total``."""
    count = 0
    while count < total:
        yield count
        count = max(1, 2 * count)
    yield total


def _note(result: KeptLayers, ranked: Sequence[LayerEffect], most: float, report: Report) -> None:
    verdict = (
        f"the drop of {result.drop:.4g} then holds {most:.4g}"
        if result.holds
        else f"no choice holds a drop of {most:.4g}; the closest is {result.drop:.4g}"
    )
    for one in ranked:
        if one.layer in result.kept:
            report.add(
                "KeepWorst", one.layer, applied=True, reason=f"it stays in floats: {verdict}"
            )
    if not result.kept:
        report.add(
            "KeepWorst", "all layers", applied=False, reason=f"none stays in floats: {verdict}"
        )
