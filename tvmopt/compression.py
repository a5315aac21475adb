"""What a recipe did to a model, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from tvmopt.layer_dtypes import LayerDtypes
from tvmopt.layers import Layer, origin
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
        sparsity: Share of its weights that is zero: before and after.
        became: The layers that stand in its place now: its own name, unless a pass made several
            of it, or removed it.
    """

    layer: str
    roles: tuple[str, ...]
    before: str
    after: str
    reason: str
    weight_bytes: tuple[int, int]
    cycles: tuple[float, float] | None
    sparsity: tuple[float, float]
    became: tuple[str, ...]

    @property
    def changed(self) -> bool:
        """Say whether it is of other numbers, another size, other zeros or other layers now."""
        return (
            self.before != self.after
            or self.weight_bytes[0] != self.weight_bytes[1]
            or self.sparsity[0] != self.sparsity[1]
            or self.became != (self.layer,)
        )


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
        """The layers that are compressed."""
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
                    "sparsity": list(one.sparsity),
                    "became": list(one.became),
                    "changed": one.changed,
                }
                for one in self.layers
            ],
        }


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Outcome:
    """A net before and after its recipe.

    Attributes:
        layers: Of the net as it was, in order.
        before: The numbers of each layer then, by its name.
        steps: The predicted cycles of each step then, by its name.
        plan: What was predicted of the net that passes of floats had changed.
        after: The numbers of each layer afterwards, by its name.
        decisions: Of the passes.
    """

    layers: Sequence[Layer]
    before: Mapping[str, LayerDtypes]
    steps: Mapping[str, float]
    plan: Plan
    after: Mapping[str, LayerDtypes]
    decisions: Sequence[Decision]

    def results(self) -> tuple[LayerResult, ...]:
        """Return what was done to each layer, in order."""
        became: dict[str, list[str]] = {layer.name: [] for layer in self.layers}
        for name in self.after:
            source = origin(name, became)
            if source in became:
                became[source].append(name)
        return tuple(self._result(layer, became[layer.name]) for layer in self.layers)

    def _result(self, layer: Layer, parts: Sequence[str]) -> LayerResult:
        before, now = self.before[layer.name], [self.after[part] for part in parts]
        count = sum(part.weights for part in now)
        result = LayerResult(
            layer=layer.name,
            roles=tuple(sorted(layer.roles)),
            before=str(before),
            after=", ".join(dict.fromkeys(map(str, now))) or "removed",
            reason="",
            weight_bytes=(before.weight_bytes, sum(part.weight_bytes for part in now)),
            cycles=self._cycles(layer.name, parts),
            sparsity=(before.sparsity, sum(p.sparsity * p.weights for p in now) / max(count, 1)),
            became=tuple(parts),
        )
        return replace(result, reason=self._reason(result, before))

    def _reason(self, result: LayerResult, before: LayerDtypes) -> str:
        meant = {result.layer, *result.became}
        said = [d for d in self.decisions if d.site in meant]
        fitting = [d.reason for d in said if d.applied == result.changed]
        return "; ".join(dict.fromkeys(fitting or [d.reason for d in said])) or _why_not(before)

    def _cycles(self, name: str, parts: Sequence[str]) -> tuple[float, float] | None:
        """Return those before and after; what the plan shares out among its layers counts."""
        plan = self.plan
        if name not in self.steps or not all(part in plan.cycles for part in parts):
            return None
        shared = sum(plan.cycles[part][0] - plan.steps[part] for part in parts)
        return self.steps[name] + shared, sum(plan.cycles[part][1] for part in parts)


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
