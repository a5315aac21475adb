"""Run the passes of a recipe on a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import tvm

from tvmopt.calibration import Samples, Tap
from tvmopt.layers import layers_of
from tvmopt.passes.prune.prune_weights import PruneWeights, PruneWeightsOptions
from tvmopt.passes.quantize.bias_correction import CorrectBias, CorrectBiasOptions
from tvmopt.passes.quantize.equalize_layers import EqualizeLayers, EqualizeLayersOptions
from tvmopt.passes.quantize.layer_bits import LayerBits
from tvmopt.passes.quantize.layers import find_layers
from tvmopt.passes.quantize.quantize_dynamic import QuantizeDynamic, QuantizeDynamicOptions
from tvmopt.passes.quantize.quantize_static import QuantizeStatic, QuantizeStaticOptions
from tvmopt.passes.quantize.quantize_weights import QuantizeWeights, QuantizeWeightsOptions
from tvmopt.passes.quantize.repair_weights import RepairWeights, RepairWeightsOptions
from tvmopt.passes.quantize.smooth_quant import SmoothQuant, SmoothQuantOptions
from tvmopt.recipe import Recipe
from tvmopt.recipe.rules import LayerChoice, choice_for
from tvmopt.report import Report

Progress = Callable[[str, int, int], None]
"""Takes what is under way, how much of it is done, and how much there is."""

Transform = Callable[[tvm.IRModule], tvm.IRModule]


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """What passes learn from and tell.

    Attributes:
        samples: Calibration samples.
        tap: Compiles parts of the graph for this machine.
        report: Takes decisions.
        progress: Is told of slow work.
    """

    samples: Samples
    tap: Tap
    report: Report
    progress: Progress


def run_passes(
    mod: tvm.IRModule,
    recipe: Recipe,
    context: Context,
    leave: Mapping[str, str],
    *,
    values: bool = True,
) -> tvm.IRModule:
    """Return what the passes of a recipe make of ``mod``.

    Args:
        mod: Canonical, with static shapes and different names.
        recipe: What to do.
        context: What passes learn from and tell.
        leave: Layers that no pass touches, by name, and why.
        values: Whether passes run that change values alone; what is computed in which numbers does
            not depend on them.
    """
    layers = layers_of(mod)
    reference = mod
    for kind, options in zip(recipe.kinds, recipe.passes, strict=True):
        choices = {
            layer.name: LayerChoice(skip=leave[layer.name])
            if layer.name in leave
            else choice_for(kind.name, layer, recipe.layers)
            for layer in layers
        }
        if kind.stage == "quantize":
            mod = _quantize(options, choices, mod, context)(mod)
        elif values:
            mod = _change_values(options, choices, reference, context)(mod)
        if kind.stage == "prepare":
            reference = mod
    return mod


def _quantize(
    options: Any, choices: Mapping[str, LayerChoice], mod: tvm.IRModule, context: Context
) -> Transform:
    """Return a pass that changes in which numbers layers are computed."""
    there = {layer.name for layer in find_layers(mod["main"]).values()}
    meant = {name: choice for name, choice in choices.items() if name in there}
    options = replace(
        options,
        skip={name: choice.skip for name, choice in meant.items() if choice.skip},
        rules=tuple(
            LayerBits(pattern=name, bits=choice.weight_bits)
            for name, choice in meant.items()
            if choice.weight_bits is not None
        ),
    )
    match options:
        case QuantizeStaticOptions():
            return QuantizeStatic(
                options,
                context.samples,
                context.tap,
                context.report,
                progress=context.progress,
            )
        case QuantizeDynamicOptions():
            return QuantizeDynamic(options, context.report)
        case QuantizeWeightsOptions():
            return QuantizeWeights(options, context.report)
    raise AssertionError(f"{type(options).__name__} has no pass")


def _change_values(
    options: Any,
    choices: Mapping[str, LayerChoice],
    reference: tvm.IRModule,
    context: Context,
) -> Transform:
    """Return a pass that changes values alone.

    Args:
        options: Of the pass.
        choices: What it does with each layer, by name.
        reference: The graph of floats that was quantized.
        context: What it learns from and tells.
    """
    samples, tap, report = context.samples, context.tap, context.report

    def leave(name: str) -> str | None:
        return choices[name].skip or None

    match options:
        case EqualizeLayersOptions():
            return EqualizeLayers(options, report)
        case PruneWeightsOptions():
            return PruneWeights(
                replace(options, skip={n: c.skip for n, c in choices.items() if c.skip}),
                samples,
                tap,
                report,
                progress=context.progress,
            )
        case SmoothQuantOptions():
            return SmoothQuant(options, samples, tap, report)
        case RepairWeightsOptions():
            return RepairWeights(
                options, reference, samples, tap, report, leave=leave, progress=context.progress
            )
        case CorrectBiasOptions():
            return CorrectBias(
                options, reference, samples, tap, report, leave=leave, progress=context.progress
            )
    raise AssertionError(f"{type(options).__name__} has no pass")
