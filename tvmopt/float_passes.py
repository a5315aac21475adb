"""Run those passes of a recipe that change shapes or make zeros.

They run first, for real: the kernels that are chosen, and so the times by which the others are
planned, follow from what they make.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import tvm

from tvmopt.context import Context, placeholders
from tvmopt.layers import layers_of
from tvmopt.passes.lowrank.factorize_layers import FactorizeLayers
from tvmopt.passes.lowrank.options import FactorizeLayersOptions
from tvmopt.passes.prune.channel_options import PruneChannelsOptions
from tvmopt.passes.prune.prune_channels import PruneChannels
from tvmopt.passes.prune.prune_weights import PruneWeights, PruneWeightsOptions
from tvmopt.passes.prune.refit_layers import RefitLayers, RefitLayersOptions
from tvmopt.passes.quantize.layers import find_layers
from tvmopt.prediction import Predict
from tvmopt.recipe import Recipe
from tvmopt.recipe.kinds import FLOATS
from tvmopt.recipe.rules import LayerChoice, choice_for, keep_for
from tvmopt.run_passes import Transform, as_given, run_passes


def change_floats(
    mod: tvm.IRModule, recipe: Recipe, context: Context, settle: Transform
) -> tvm.IRModule:
    """Return what the passes of a recipe that change shapes or make zeros make of ``mod``.

    Args:
        mod: Canonical, with static shapes and different names.
        recipe: What to do.
        context: What passes learn from and tell.
        settle: Brings what a pass that changes shapes returns into canonical form.

    Returns:
        A module as ``mod``; its layers are called as ``tvmopt.layers.origin`` says.
    """
    trail, given = _Trail(reference=mod), {layer.name for layer in layers_of(mod)}
    context = replace(context, predict=_foresee(recipe, context, given))
    for kind, options in zip(recipe.kinds, recipe.passes, strict=True):
        if kind.stage not in FLOATS:
            continue
        meant = {layer.name: as_given(layer, given) for layer in layers_of(mod)}
        wish = _Wish(
            choices={
                name: choice_for(kind.name, layer, recipe.layers) for name, layer in meant.items()
            },
            must_pay=frozenset(
                name
                for name, layer in meant.items()
                if keep_for(layer, recipe.layers, recipe.keep) == "faster"
            ),
        )
        new = _make_floats(mod, options, wish, trail, context)
        mod = settle(new) if kind.stage == "restructure" else new
    return mod


def _foresee(recipe: Recipe, context: Context, given: Collection[str]) -> Predict:
    """Return the cost model of what the passes to come will make of a net: of integers, if so."""
    if not any(kind.stage == "quantize" for kind in recipe.kinds):
        return context.predict

    def predict(mod: tvm.IRModule) -> Mapping[str, float]:
        passes = _for_part(recipe, mod)
        if not passes:
            return context.predict(mod)
        later, those = placeholders(context.predict), replace(recipe, passes=passes, auto_bits=())
        return context.predict(run_passes(mod, those, later, given, {}, values=False))

    return predict


def _for_part(recipe: Recipe, mod: tvm.IRModule) -> tuple[Any, ...]:
    """Return the passes that quantize, without the patterns that fit nothing in a part of the net.

    They were looked at in the whole net; passes ask for the time of single layers too.
    """
    layers = list(find_layers(mod["main"]).values())

    def there(pattern: str) -> bool:
        return pattern == "*" or any(layer.matches(pattern) for layer in layers)

    passes = []
    for kind, options in zip(recipe.kinds, recipe.passes, strict=True):
        if kind.stage == "quantize":
            found = tuple(pattern for pattern in options.layers if there(pattern))
            passes += [replace(options, layers=found)] if found else []
    return tuple(passes)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Wish:
    """What a recipe says of each layer to one pass.

    Attributes:
        choices: By the layer's name.
        must_pay: The layers that stay as they are unless they get faster.
    """

    choices: Mapping[str, LayerChoice]
    must_pay: frozenset[str]

    def leave(self, name: str) -> str | None:
        """Return why a layer is left alone; None if it is not."""
        return self.choices[name].skip or None if name in self.choices else None

    def skip(self, mod: tvm.IRModule) -> dict[str, str]:
        """Return why layers of weights are left alone, by name."""
        there = {layer.name for layer in find_layers(mod["main"]).values()}
        return {name: c.skip for name, c in self.choices.items() if c.skip and name in there}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Trail:
    """Where the layers at hand come from.

    Attributes:
        reference: The net as it was given, before any pass.
        outputs: For each layer whose outputs were left out or reordered since, by its name: the
            number of each output that it has among those that it had, (outputs,).
    """

    reference: tvm.IRModule
    outputs: dict[str, np.ndarray] = field(default_factory=dict)

    def follow(self, outputs: Mapping[str, np.ndarray]) -> None:
        """Take that a pass left layers with some of the outputs they had, in the order given."""
        for name, chosen in outputs.items():
            self.outputs[name] = self.outputs[name][chosen] if name in self.outputs else chosen


def _make_floats(
    mod: tvm.IRModule, options: Any, wish: _Wish, trail: _Trail, context: Context
) -> tvm.IRModule:
    """Return what a pass makes of ``mod`` that changes shapes, or makes zeros and fits the rest.

    Args:
        mod: What the passes before it made.
        options: Of the pass.
        wish: What the recipe says of each layer.
        trail: Where the layers come from.
        context: What it learns from and tells.
    """
    samples = None if context.blind else context.samples
    tap = None if context.blind else context.tap
    make: Any
    match options:
        case FactorizeLayersOptions():
            make = FactorizeLayers
        case PruneChannelsOptions():
            make = PruneChannels
        case PruneWeightsOptions():
            make = PruneWeights
        case RefitLayersOptions():
            return RefitLayers(
                replace(options, skip=wish.skip(mod)),
                trail.reference,
                samples,
                tap,
                context.report,
                outputs=trail.outputs,
                progress=context.progress,
            )(mod)
        case _:
            raise AssertionError(f"{type(options).__name__} has no pass")
    step = make(
        replace(options, skip=wish.skip(mod)),
        samples,
        tap,
        context.report,
        predict=context.predict,
        must_pay=wish.must_pay,
        progress=context.progress,
    )
    new: tvm.IRModule = step(mod)
    trail.follow(step.outputs)
    return new
