"""Run a recipe on a model, without the layers that would not pay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import tvm
from threadpoolctl import threadpool_limits

from tvmopt import ir
from tvmopt.calibration import Samples, load_samples
from tvmopt.compression import Calibration, Compression, Outcome, forecast_decisions
from tvmopt.context import Context, Progress, no_samples, placeholders
from tvmopt.errors import DataError
from tvmopt.float_passes import change_floats
from tvmopt.kernels.dot import choose_dot
from tvmopt.layer_dtypes import LayerDtypes, layer_dtypes
from tvmopt.layers import Layer, layers_of
from tvmopt.lowering import LowerOptions, predict_layers
from tvmopt.passes.canonicalize import canonicalize_passes
from tvmopt.plan import Plan, make_plan
from tvmopt.recipe import Recipe
from tvmopt.recipe.kinds import FLOATS
from tvmopt.recipe.rules import check_matches
from tvmopt.report import Decision, Report
from tvmopt.run_passes import run_passes
from tvmopt.samples import Port
from tvmopt.tap import native_tap
from tvmopt.targets import CpuTarget

Given = Samples | Mapping[str, np.ndarray] | np.ndarray | str | Path
"""Calibration samples: checked; arrays by input name; the one input's array; or an .npz file."""


def compress(
    mod: tvm.IRModule,
    inputs: Sequence[Port],
    recipe: Recipe,
    given: Given | None,
    target: CpuTarget,
    report: Report,
    progress: Progress,
) -> tuple[tvm.IRModule, Compression]:
    """Return the compressed module and what was done to each layer.

    Args:
        mod: As imported or canonical; it stays as it is.
        inputs: Of the model, in the order of "main"'s parameters.
        recipe: What to do.
        given: Calibration samples; None where no pass needs any.
        target: The machine whose times are predicted.
        report: Takes the passes' decisions.
        progress: Is told of slow work.

    Raises:
        OptionError: A pattern of the recipe fits no layer.
        DataError: The recipe needs samples and there are none, they do not fit the model, or a
            value that they lead to is not finite.
    """
    samples = samples_for(recipe, given, inputs)
    chosen, notes = with_bits(recipe, target)
    context = Context(
        samples=samples or no_samples(),
        tap=native_tap([port.name for port in inputs]),
        report=Report(),
        progress=progress,
        predict=_predict(recipe, target),
    )
    with threadpool_limits(limits=1):  # so that results depend on no machine's count of cores
        start = _start(mod, chosen, context, report)
        given_names = {layer.name for layer in start.layers}
        new = run_passes(start.changed, chosen, context, given_names, start.plan.leave)
        new = ir.unique_names(canonicalize(new, report))
        after, cycles = layer_dtypes(new), start.cycles
        if after != start.plan.after:  # samples told that layers need finer numbers than planned
            cycles = cycles[0], sum(context.predict(new).values())
    report.decisions += context.report.decisions
    learned = None
    if samples is not None and recipe.learns_from:
        learned = Calibration(samples=samples.count, sha256=samples.sha256())
    said = context.report.decisions
    return new, Compression(
        recipe=recipe,
        calibration=learned,
        target=target.name,
        notes=notes,
        layers=start.outcome(after, said).results(),
        cycles=cycles,
    )


def forecast(mod: tvm.IRModule, recipe: Recipe, target: CpuTarget, report: Report) -> Compression:
    """Return what ``compress`` would do to each layer, by the cost model alone; it needs no sample.

    Passes that change shapes or make zeros run all the same, and choose by the weights alone.

    Raises:
        OptionError: A pattern of the recipe fits no layer.
    """
    chosen, notes = with_bits(recipe, target)
    context = placeholders(_predict(recipe, target))
    with threadpool_limits(limits=1):
        start = _start(mod, chosen, context, report)
    said = [*context.report.decisions, *forecast_decisions(start.plan)]
    if any(kind.stage in FLOATS and kind.needs_samples for kind in recipe.kinds):
        notes = (*notes, "no samples: what is cut away was chosen by the weights alone")
    return Compression(
        recipe=recipe,
        calibration=None,
        target=target.name,
        notes=notes,
        layers=start.outcome(start.plan.after, said).results(),
        cycles=start.cycles,
    )


def _predict(recipe: Recipe, target: CpuTarget) -> partial[dict[str, float]]:
    """Return what predicts the kernels that the recipe will have."""
    options = LowerOptions(smaller=recipe.keep == "smaller")
    return partial(predict_layers, target=target, options=options)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Start:
    """A net as it was, as passes of floats changed it, and what is planned of that.

    Attributes:
        layers: Of the net as it was.
        before: The numbers of each layer then.
        steps: The predicted cycles of each step then.
        changed: The net that they made.
        plan: What the other passes leave alone in it.
    """

    layers: tuple[Layer, ...]
    before: Mapping[str, LayerDtypes]
    steps: Mapping[str, float]
    changed: tvm.IRModule
    plan: Plan

    @property
    def cycles(self) -> tuple[float, float]:
        """The predicted cycles of the net as it was, and afterwards."""
        return sum(self.steps.values()), self.plan.total[1]

    def outcome(self, after: Mapping[str, LayerDtypes], said: Sequence[Decision]) -> Outcome:
        """Return what became of each layer."""
        return Outcome(
            layers=self.layers,
            before=self.before,
            steps=self.steps,
            plan=self.plan,
            after=after,
            decisions=said,
        )


def _start(mod: tvm.IRModule, recipe: Recipe, context: Context, report: Report) -> _Start:
    """Run the passes that change shapes or make zeros, and plan the others."""

    def settle(new: tvm.IRModule) -> tvm.IRModule:
        return ir.unique_names(canonicalize(new, report))

    mod = settle(mod)
    layers = layers_of(mod)
    check_matches(recipe.layers, layers, f"recipe {recipe.name!r}")
    changed = change_floats(mod, recipe, context, settle)
    plan = make_plan(changed, recipe, context.predict, {layer.name for layer in layers})
    return _Start(
        layers=layers,
        before=layer_dtypes(mod),
        steps=plan.steps if changed is mod else context.predict(mod),
        changed=changed,
        plan=plan,
    )


def canonicalize(mod: tvm.IRModule, report: Report) -> tvm.IRModule:
    """Return ``mod`` in the form that passes and lowering expect: folded, NHWC, one spelling."""
    for step in canonicalize_passes(report):
        mod = step(mod)
    return mod


def with_bits(recipe: Recipe, target: CpuTarget) -> tuple[Recipe, tuple[str, ...]]:
    """Return the recipe with bits chosen for the target where it leaves them open, and a note.

    Weights of 7 bits are for machines on which two products of bytes must fit 16 bits.
    """
    if not recipe.auto_bits:
        return recipe, ()
    exact = choose_dot(target, largest=127).name
    bits = 7 if exact == "pmaddwd" else 8
    slow = f"exact products of 8 take {exact}, which is slower"
    why = slow if bits == 7 else "7 would be no faster"
    return recipe.for_bits(bits), (f"weights get {bits} bits on {target.name}: {why}",)


def samples_for(recipe: Recipe, given: Given | None, inputs: Sequence[Port]) -> Samples | None:
    """Return the samples that a recipe learns from, checked; None where it learns from none.

    Raises:
        DataError: It needs some and there are none, or they do not fit the model.
    """
    if given is None:
        if recipe.learns_from:
            raise DataError(
                f"recipe {recipe.name!r} must have calibration samples, of which "
                f"{', '.join(recipe.learns_from)} learns, got none; give some of what the model "
                "will see (--calib calib.npz), or a recipe that needs none, such as 'int8-dynamic'"
            )
        return None
    if isinstance(given, Samples):
        return given
    if isinstance(given, str | Path):
        return load_samples(Path(given), inputs, least=recipe.min_samples)
    if isinstance(given, np.ndarray):
        if len(inputs) != 1:
            names = ", ".join(repr(port.name) for port in inputs)
            raise DataError(f"calibration must be given by name, the model has {names}")
        given = {inputs[0].name: given}
    return Samples(inputs, given, least=recipe.min_samples)
