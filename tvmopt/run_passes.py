"""Run those passes of a recipe that change neither shapes nor zeros, as planned."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import tvm

from tvmopt.context import Context
from tvmopt.layers import Layer, layers_of, origin
from tvmopt.passes.quantize.bias_correction import CorrectBias, CorrectBiasOptions
from tvmopt.passes.quantize.equalize_layers import EqualizeLayers, EqualizeLayersOptions
from tvmopt.passes.quantize.keep_sensitive import KeepSensitive, KeepSensitiveOptions
from tvmopt.passes.quantize.layer_bits import LayerBits
from tvmopt.passes.quantize.layers import find_layers
from tvmopt.passes.quantize.quantize_dynamic import QuantizeDynamic, QuantizeDynamicOptions
from tvmopt.passes.quantize.quantize_static import QuantizeStatic, QuantizeStaticOptions
from tvmopt.passes.quantize.quantize_weights import QuantizeWeights, QuantizeWeightsOptions
from tvmopt.passes.quantize.repair_weights import RepairWeights, RepairWeightsOptions
from tvmopt.passes.quantize.smooth_quant import SmoothQuant, SmoothQuantOptions
from tvmopt.recipe import Recipe
from tvmopt.recipe.kinds import FLOATS
from tvmopt.recipe.rules import LayerChoice, choice_for, keep_for

Transform = Callable[[tvm.IRModule], tvm.IRModule]


def run_passes(
    mod: tvm.IRModule,
    recipe: Recipe,
    context: Context,
    given: Collection[str],
    leave: Mapping[str, str],
    *,
    values: bool = True,
) -> tvm.IRModule:
    """Return what those passes of a recipe make of ``mod`` that change neither shapes nor zeros.

    Args:
        mod: As ``change_floats`` returns it.
        recipe: What to do.
        context: What passes learn from and tell.
        given: The names of the layers of the net as it was, by which rules speak of them.
        leave: Layers that no pass touches, by name, and why.
        values: Whether passes run that change values alone, or of integers to finer numbers.
    """
    layers = layers_of(mod)
    reference = mod
    for kind, options in zip(recipe.kinds, recipe.passes, strict=True):
        if kind.stage in FLOATS:
            continue
        choices = {
            layer.name: LayerChoice(skip=leave[layer.name])
            if layer.name in leave
            else choice_for(kind.name, as_given(layer, given), recipe.layers)
            for layer in layers
        }
        if kind.stage == "quantize":
            mod = _quantize(options, choices, mod, context)(mod)
        elif values:
            pays = {
                layer.name
                for layer in layers
                if keep_for(as_given(layer, given), recipe.layers, recipe.keep) == "faster"
            }
            mod = _change_values(options, choices, reference, context, pays)(mod)
        if kind.stage == "prepare":
            reference = mod
    return mod


def as_given(layer: Layer, before: Collection[str]) -> Layer:
    """Return a layer under the name by which rules speak of it."""
    return replace(layer, name=origin(layer.name, before))


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
    must_pay: Collection[str],
) -> Transform:
    """Return a pass that changes values alone, or of integers to finer numbers.

    Args:
        options: Of the pass.
        choices: What it does with each layer, by name.
        reference: The graph of floats that was quantized.
        context: What it learns from and tells.
        must_pay: The layers that stay in integers only where that is faster.
    """
    samples, tap, report = context.samples, context.tap, context.report

    def leave(name: str) -> str | None:
        return choices[name].skip or None

    match options:
        case EqualizeLayersOptions():
            return EqualizeLayers(options, report)
        case SmoothQuantOptions():
            return SmoothQuant(options, samples, tap, report, leave=leave)
        case RepairWeightsOptions():
            return RepairWeights(
                options, reference, samples, tap, report, leave=leave, progress=context.progress
            )
        case CorrectBiasOptions():
            return CorrectBias(
                options, reference, samples, tap, report, leave=leave, progress=context.progress
            )
        case KeepSensitiveOptions():
            return KeepSensitive(
                options,
                reference,
                samples,
                tap,
                report,
                predict=context.predict,
                must_pay=must_pay,
                progress=context.progress,
            )
    raise AssertionError(f"{type(options).__name__} has no pass")
