"""Compress a model as far as a measured loss allows: keep the layers that matter most in floats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.calibration import Samples
from tvmopt.compress import Given, canonicalize, samples_for
from tvmopt.context import Progress
from tvmopt.errors import DataError, OptionError
from tvmopt.model import Model, as_target
from tvmopt.passes.prune.refit_layers import RefitLayersOptions
from tvmopt.passes.quantize.sensitivity import (
    KeptLayers,
    Trial,
    keep_worst,
    output_distance,
    rank_layers,
)
from tvmopt.recipe import LayerRule, Recipe
from tvmopt.recipe.kinds import FLOATS, PassKind
from tvmopt.report import Report
from tvmopt.tap import native_tap
from tvmopt.targets import CpuTarget

Measure = Callable[[Model], float]
"""Returns what a compressed model loses, in any unit, such as points of accuracy."""

BATCHES = 64  # of the samples that layers are ranked by


def apply_within(
    model: Model,
    recipe: Recipe,
    measure: Measure,
    most: float,
    *,
    calibration: Given,
    target: CpuTarget | str = "native",
    progress: Progress = lambda *_: None,
) -> tuple[Model, KeptLayers]:
    """Return the compressed model of which no more than ``most`` is lost, and what was kept.

    Where the recipe loses too much, layers are ranked by what each, compressed alone, does to the
    outputs, and the fewest of the worst are kept in floats: as rules at the end of the recipe,
    which the result's ``compression`` holds.

    Args:
        model: As loaded.
        recipe: What to do.
        measure: What a model loses; it is called about twice the logarithm of the layers often.
        most: The most that may be lost, at least 0, in the unit of ``measure``.
        calibration: Samples, as ``Model.apply`` takes them.
        target: The machine that it will be compiled for.
        progress: Is told of slow work.

    Returns:
        The model; and whether the loss holds. If not even with all layers in floats, the closest.

    Raises:
        OptionError: ``most`` is below 0, or as ``Model.apply``.
        DataError: As ``Model.apply``, or a loss is not a number.
    """
    if not (np.isfinite(most) and most >= 0):
        raise OptionError(f"the most that may be lost must be at least 0, got {most!r}")
    samples = samples_for(recipe, calibration, model.inputs)
    if samples is None:
        raise DataError("layers are ranked by samples, got none; give calibration samples")
    resolved, report = as_target(target), Report()
    trials: dict[frozenset[str], tuple[Model, float]] = {}

    def drop(kept: frozenset[str]) -> float:
        if kept not in trials:
            small = model.apply(
                without(recipe, kept), calibration=samples, target=resolved, progress=progress
            )
            trials[kept] = small, float(measure(small))
        return trials[kept][1]

    whole = drop(frozenset())
    small = trials[frozenset()][0]
    if whole <= most:
        trial = Trial(kept=frozenset(), drop=whole)
        return small, KeptLayers(kept=trial.kept, drop=whole, holds=True, trials=(trial,))
    assert small.compression is not None
    every = [layer.layer for layer in small.compression.layers]
    changed = [layer.layer for layer in small.compression.changed]
    effects = _Effects(model, recipe, samples, resolved)

    def effect(layer: str) -> float:
        progress("rank layers", changed.index(layer), len(changed))
        return effects.without(frozenset(name for name in every if name != layer))

    found = keep_worst(rank_layers(changed, effect, report), drop, most, report)
    best = trials[found.kept][0]
    best.report.decisions += report.decisions
    return best, found


def without(recipe: Recipe, kept: frozenset[str]) -> Recipe:
    """Return the recipe with a rule at its end that leaves some layers alone."""
    if not kept:
        return recipe
    rule = LayerRule(match=tuple(sorted(kept)), skip=True)
    return replace(recipe, layers=(*recipe.layers, rule))


class _Effects:
    """What single layers, compressed alone and without repair, do to the outputs."""

    def __init__(self, model: Model, recipe: Recipe, samples: Samples, target: CpuTarget) -> None:
        self._model, self._target, self._samples = model, target, samples.spread(BATCHES)
        kinds = zip(recipe.kinds, recipe.passes, strict=True)
        passes = tuple(options for kind, options in kinds if _compresses(kind))
        names = {kind.name for kind in recipe.kinds if _compresses(kind)}
        rules = tuple(rule for rule in recipe.layers if not rule.passes or names & {*rule.passes})
        rules = tuple(
            replace(rule, passes=tuple(name for name in rule.passes if name in names))
            for rule in rules
        )
        self._recipe = replace(recipe, passes=passes, layers=rules, keep="all")
        self._wanted = self._outputs(canonicalize(model.mod, Report()))

    def without(self, others: frozenset[str]) -> float:
        """Return the distance of the outputs with all layers but ``others`` compressed."""
        recipe = without(self._recipe, others)
        small = self._model.apply(recipe, calibration=self._samples, target=self._target)
        return output_distance(iter(self._outputs(small.mod)), iter(self._wanted))

    def _outputs(self, mod: tvm.IRModule) -> list[np.ndarray]:
        """Return the outputs of all batches, flat: they are few numbers beside what flows."""
        mod = ir.unique_names(mod)
        names = output_names(mod)
        run = native_tap([port.name for port in self._model.inputs])(mod, names)
        return [_flat(run(feed), names) for feed in self._samples]


def _compresses(kind: PassKind) -> bool:
    """Say whether a pass makes layers smaller; others make them fit, and cannot stand alone."""
    return kind.stage in (*FLOATS, "quantize") and kind.options is not RefitLayersOptions


def output_names(mod: tvm.IRModule) -> list[str]:
    """Return the variables that "main" returns, each once; constants are left out."""
    values = dict(ir.bindings(mod["main"]))
    result = mod["main"].body.body
    value = values.get(result, result)
    fields = value.fields if isinstance(value, relax.Tuple) else [result]
    return list(dict.fromkeys(field.name for field in fields if isinstance(field, relax.Var)))


def _flat(values: Mapping[str, np.ndarray], names: list[str]) -> np.ndarray:
    return np.concatenate([values[name].reshape(-1) for name in names])
