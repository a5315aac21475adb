"""What a recipe did to a model, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tvmopt.layer_dtypes import LayerDtypes
from tvmopt.layers import Layer
from tvmopt.plan import Plan
from tvmopt.recipe import Recipe
from tvmopt.report import Decision


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerResult:
    """One layer before and after.

    Attributes:
        layer: Its name.
        roles: See ``tvmopt.layers``.
        before: The numbers that it computed in, such as ``"float32"``.
        after: The numbers that it computes in now, such as ``"uint8 x 7-bit by channel"``.
        reason: Why, in a form that can follow the word "because".
        weight_bytes: Of its weight, packed: before and after.
        cycles: Predicted cycles of one core, with its share of the steps next to it that are no
            layers: before and after; None where nothing predicts them.
    """

    layer: str
    roles: tuple[str, ...]
    before: str
    after: str
    reason: str
    weight_bytes: tuple[int, int]
    cycles: tuple[float, float] | None

    @property
    def changed(self) -> bool:
        """Say whether it computes in other numbers now."""
        return self.before != self.after


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """The samples that passes learned from.

    Attributes:
        samples: How many.
        sha256: Of their values, in hexadecimal.
    """

    samples: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Compression:
    """A recipe and what came of it.

    Attributes:
        recipe: What was asked for.
        calibration: What passes learned from; None where none did.
        target: The name of the machine whose times were predicted.
        notes: What the recipe left open and the target decided.
        layers: In order.
        cycles: Predicted cycles of one core for the whole net: before and after.
    """

    recipe: Recipe
    calibration: Calibration | None
    target: str
    notes: tuple[str, ...]
    layers: tuple[LayerResult, ...]
    cycles: tuple[float, float]

    @property
    def changed(self) -> Sequence[LayerResult]:
        """The layers that compute in other numbers now."""
        return [layer for layer in self.layers if layer.changed]

    def describe(self) -> dict[str, Any]:
        """Return all of it as JSON can hold it."""
        return {
            **self.recipe.describe(),
            "sha256": self.recipe.sha256(),
            "calibration": asdict(self.calibration) if self.calibration else None,
            "predicted_for": self.target,
            "notes": list(self.notes),
            "predicted_cycles": list(self.cycles),
            "result": [
                {
                    "layer": one.layer,
                    "roles": list(one.roles),
                    "before": one.before,
                    "after": one.after,
                    "reason": one.reason,
                    "weight_bytes": list(one.weight_bytes),
                    "predicted_cycles": list(one.cycles) if one.cycles else None,
                }
                for one in self.layers
            ],
        }


def layer_results(
    layers: Sequence[Layer],
    plan: Plan,
    after: Mapping[str, LayerDtypes],
    decisions: Iterable[Decision],
) -> tuple[LayerResult, ...]:
    """Return what was done to each layer, in order.

    Args:
        layers: Of the net as it was.
        plan: What was predicted.
        after: The numbers of each layer afterwards, by its name.
        decisions: Of the passes.
    """
    decided = list(decisions)
    results = []
    for layer in layers:
        before, now = plan.before[layer.name], after.get(layer.name, plan.before[layer.name])
        changed = before != now
        said = [d.reason for d in decided if d.site == layer.name and d.applied == changed]
        results.append(
            LayerResult(
                layer=layer.name,
                roles=tuple(sorted(layer.roles)),
                before=str(before),
                after=str(now),
                reason="; ".join(dict.fromkeys(said)) or _why_not(before),
                weight_bytes=(before.weight_bytes, now.weight_bytes),
                cycles=plan.cycles.get(layer.name),
            )
        )
    return tuple(results)


def _why_not(before: LayerDtypes) -> str:
    """Return why no pass said anything of a layer."""
    if before.data == before.weight:
        return "no pass of the recipe is for it"
    return "it is compressed in the model already"


def forecast_decisions(plan: Plan) -> list[Decision]:
    """Return why each layer will be compressed, or left alone, as far as a plan can know.

    What passes said of ranges came of placeholders and is left out.
    """
    said = [decision for decision in plan.decisions if not decision.applied]
    for name, before in plan.before.items():
        if before != plan.after.get(name, before):
            old, new = plan.cycles.get(name, (0.0, 0.0))
            reason = plan.kept.get(name, "no faster by itself, but it spares its neighbours more")
            pays = "predicted to be faster" if new < old else reason
            said.append(Decision("Plan", name, applied=True, reason=pays))
    return said
