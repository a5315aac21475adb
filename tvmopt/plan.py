"""Decide, before any sample is looked at, which layers a recipe leaves as they are.

Integers and floats of a layer take the same time whatever their values. So a recipe is tried with
placeholders for what calibration would find, the cost model predicts the net's time, and layers
that would not pay are left out; then the borders of what is left have moved, so it is tried again.

Source: none; derived here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import tvm

from tvmopt.context import placeholders
from tvmopt.layer_dtypes import LayerDtypes, layer_dtypes
from tvmopt.layers import layers_of, origin
from tvmopt.payoff import shares
from tvmopt.prediction import Predict
from tvmopt.recipe import Recipe
from tvmopt.recipe.rules import keep_for
from tvmopt.report import Decision
from tvmopt.run_passes import run_passes

ROUNDS = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is left alone and what the rest is predicted to bring.

    Attributes:
        leave: Why, by the layer's name.
        kept: Layers that stay compressed whatever they cost, by name, and why.
        before: The numbers of each layer before, by its name.
        after: The same afterwards.
        cycles: The predicted cycles that count for each layer, before and after.
        steps: The predicted cycles of each step of the net before, by its name.
        total: The predicted cycles of the net, before and after.
        decisions: What the passes decided; ranges in them are placeholders.
    """

    leave: Mapping[str, str]
    kept: Mapping[str, str]
    before: Mapping[str, LayerDtypes]
    after: Mapping[str, LayerDtypes]
    cycles: Mapping[str, tuple[float, float]]
    steps: Mapping[str, float]
    total: tuple[float, float]
    decisions: tuple[Decision, ...]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Task:
    """What is planned.

    Attributes:
        mod: Canonical, with static shapes and different names.
        recipe: What to do.
        predict: The cost model of the target.
        given: The names of the layers of the net as it was, by which rules speak of them.
        steps: What ``predict`` says of ``mod``.
    """

    mod: tvm.IRModule
    recipe: Recipe
    predict: Predict
    given: Collection[str]
    steps: Mapping[str, float]


def make_plan(
    mod: tvm.IRModule, recipe: Recipe, predict: Predict, given: Collection[str] | None = None
) -> Plan:
    """Return which layers to leave alone, so that the net is predicted to be no slower.

    Layers that the recipe keeps in any case stay, whatever they cost.

    Args:
        mod: Canonical, with static shapes and different names.
        recipe: What to do; its passes that change shapes or make zeros have run already.
        predict: The cost model of the target.
        given: The names of the layers of the net as it was before those; None: as they are.
    """
    named = {layer.name for layer in layers_of(mod)} if given is None else given
    task = _Task(mod=mod, recipe=recipe, predict=predict, given=named, steps=predict(mod))
    best = _try(task, {})
    plan = best
    for _ in range(ROUNDS):
        lost = _without_gain(plan)
        if not lost:
            break
        plan = _try(task, {**plan.leave, **lost})
        best = min(best, plan, key=lambda one: one.total[1])
    if best.total[1] < best.total[0]:
        return best
    why = "the net as a whole is predicted to be no faster"
    lost = dict.fromkeys(_may_leave(best), why)
    return _try(task, {**best.leave, **lost}) if lost else best


def _try(task: _Task, leave: Mapping[str, str]) -> Plan:
    mod, before = task.mod, task.steps
    context = placeholders(task.predict)
    new = run_passes(mod, task.recipe, context, task.given, leave, values=False)
    after = before if new is mod else task.predict(new)
    numbers = layer_dtypes(mod), layer_dtypes(new)
    names = [name for name in numbers[0] if name in numbers[1]]
    changed = [name for name in names if numbers[0][name] != numbers[1][name]]
    old_shares = shares(before, mod, changed, names)
    new_shares = shares(after, new, changed, names)
    shared = {name: (old_shares[name], new_shares[name]) for name in changed}
    return Plan(
        leave=leave,
        kept=_kept(task, numbers),
        before=numbers[0],
        after=numbers[1],
        cycles={
            name: (before[name], after[name]) for name in names if name in before and name in after
        }
        | shared,
        steps=before,
        total=(sum(before.values()), sum(after.values())),
        decisions=tuple(context.report.decisions),
    )


def _without_gain(plan: Plan) -> dict[str, str]:
    """Return the layers whose compression costs time, and why they are left alone."""
    found = {}
    for name in _may_leave(plan):
        old, new = plan.cycles.get(name, (0.0, 0.0))
        if new >= old:
            found[name] = (
                f"predicted to be {new / old:.2f}x as slow as {plan.after[name]}, with the "
                "conversions that it needs"
            )
    return found


def _may_leave(plan: Plan) -> list[str]:
    """Return the layers that are compressed and may as well not be."""
    changed = [name for name, now in plan.after.items() if now != plan.before.get(name, now)]
    return [name for name in changed if name not in plan.kept]


def _kept(
    task: _Task, numbers: tuple[Mapping[str, LayerDtypes], Mapping[str, LayerDtypes]]
) -> dict[str, str]:
    kept = {}
    for layer in layers_of(task.mod):
        before = numbers[0][layer.name]
        after = numbers[1].get(layer.name, before)
        meant = replace(layer, name=origin(layer.name, task.given))
        keep = keep_for(meant, task.recipe.layers, task.recipe.keep)
        if keep == "smaller" and after.weight_bytes < before.weight_bytes:
            kept[layer.name] = "the recipe keeps what is smaller"
        elif keep == "all":
            kept[layer.name] = "the recipe keeps all"
    return kept
