"""Run a recipe on a model, without the layers that would not pay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import tvm
from threadpoolctl import threadpool_limits

from tvmopt import ir
from tvmopt.calibration import Samples, load_samples
from tvmopt.compression import Calibration, Compression, forecast_decisions, layer_results
from tvmopt.errors import DataError
from tvmopt.kernels.dot import choose_dot
from tvmopt.layer_dtypes import layer_dtypes
from tvmopt.layers import layers_of
from tvmopt.lowering import predict_layers
from tvmopt.passes.canonicalize import canonicalize_passes
from tvmopt.plan import Plan, make_plan, no_samples
from tvmopt.recipe import Recipe
from tvmopt.recipe.rules import check_matches
from tvmopt.report import Report
from tvmopt.run_passes import Context, Progress, run_passes
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
    with threadpool_limits(limits=1):  # so that results depend on no machine's count of cores
        mod = ir.unique_names(canonicalize(mod, report))
        plan = _plan(mod, chosen, target)
        decided = Report()
        tap = native_tap([port.name for port in inputs])
        context = Context(
            samples=samples or no_samples(), tap=tap, report=decided, progress=progress
        )
        new = canonicalize(run_passes(mod, chosen, context, plan.leave), report)
    report.decisions += decided.decisions
    learned = None
    if samples is not None and recipe.learns_from:
        learned = Calibration(samples=samples.count, sha256=samples.sha256())
    return new, Compression(
        recipe=recipe,
        calibration=learned,
        target=target.name,
        notes=notes,
        layers=layer_results(layers_of(mod), plan, layer_dtypes(new), decided.decisions),
        cycles=plan.total,
    )


def forecast(mod: tvm.IRModule, recipe: Recipe, target: CpuTarget, report: Report) -> Compression:
    """Return what ``compress`` would do to each layer, by the cost model alone; it needs no sample.

    Raises:
        OptionError: A pattern of the recipe fits no layer.
    """
    chosen, notes = with_bits(recipe, target)
    with threadpool_limits(limits=1):
        mod = ir.unique_names(canonicalize(mod, report))
        plan = _plan(mod, chosen, target)
    return Compression(
        recipe=recipe,
        calibration=None,
        target=target.name,
        notes=notes,
        layers=layer_results(layers_of(mod), plan, plan.after, forecast_decisions(plan)),
        cycles=plan.total,
    )


def _plan(mod: tvm.IRModule, recipe: Recipe, target: CpuTarget) -> Plan:
    check_matches(recipe.layers, layers_of(mod), f"recipe {recipe.name!r}")
    return make_plan(mod, recipe, partial(predict_layers, target=target))


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
