"""Say how much of each layer becomes zero, and in which structure.

``"uniform"`` asks the same share of all. ``"global"`` lets the blocks go that cost least, each cost
counted in the mean of its layer; ``"sensitivity"`` counts it in what the layer, pruned alone, does
to the net's outputs. ``"time"`` spends as much cost, so counted, as the uniform shares would, where
it saves most time. The structure ``"auto"`` is chosen layer by layer.

Sources: those of ``allocation`` and ``layer_curves``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import tvm

from tvmopt.calibration import Samples, Tap
from tvmopt.errors import OptionError
from tvmopt.passes.prune.allocation import Choice, Curve, spend_on_time, spread_threshold
from tvmopt.passes.prune.float_layers import FloatLayer
from tvmopt.passes.prune.goal_times import GoalTimes, fits
from tvmopt.passes.prune.layer_curves import LayerCurves
from tvmopt.passes.prune.layer_effects import layer_effects
from tvmopt.passes.prune.prune_options import AUTO, PruneWeightsOptions
from tvmopt.passes.prune.structures import Goal, Structure
from tvmopt.passes.quantize.net_pair import Progress
from tvmopt.prediction import Predict

# Outputs by inputs: what kernels may leave out, of which the cost model says which one does.
STRUCTURES = ("1x1", "2x1", "4x1", "8x1", "16x1", "1x4", "2x4", "4x4", "8x4", "16x4")
SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
_BATCHES = 32  # of the samples by which layers are measured
_NEAR = 1.01  # times nearer than that are one

Note = Callable[[str, str], None]
"""Takes a layer's name and the reason why it stays dense."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Ground:
    """What goals are set by.

    Attributes:
        mod: The net, with distinct names.
        layers: Those that may be pruned.
        options: What is asked for.
        predict: The cost model; None knows no times.
        must_pay: The layers that stay dense unless they get faster.
        samples: What to run; None chooses by the weights alone.
        tap: Compiles modules for this machine; None as ``samples``.
        progress: Is told of slow work.
    """

    mod: tvm.IRModule
    layers: Sequence[FloatLayer]
    options: PruneWeightsOptions
    predict: Predict | None
    must_pay: Collection[str]
    samples: Samples | None
    tap: Tap | None
    progress: Progress


def set_goals(ground: Ground, note: Note) -> dict[str, Goal]:
    """Return what is asked of each layer that is pruned, by name; others are noted.

    Args:
        ground: What goals are set by.
        note: Takes the layers that stay dense, and why.

    Raises:
        OptionError: Times are asked for, and there is no cost model.
        DataError: A value that flows through the net is not finite.
    """
    options = ground.options
    if ground.predict is None and (options.allocation == "time" or options.structure == AUTO):
        raise OptionError("allocation 'time' and structure 'auto' must have a cost model, got none")
    return _Setting(ground, note).goals()


class _Setting:
    """Goals while they are being set."""

    def __init__(self, ground: Ground, note: Note) -> None:
        self.ground, self.note, self.options = ground, note, ground.options
        self.named = {layer.name: layer for layer in ground.layers}
        self.times = (
            None if ground.predict is None else GoalTimes(ground.mod, ground.layers, ground.predict)
        )

    def goals(self) -> dict[str, Goal]:
        """Return them."""
        allocation, plain = self.options.allocation, Structure.parse(self.options.structure)
        fixed = None if plain is None else plain.fixed_sparsity
        if fixed is not None or (allocation == "uniform" and plain is not None):
            share = self.options.sparsity if fixed is None else fixed
            goal = Goal(structure=self.options.structure, sparsity=share)
            return self._that_pay(dict.fromkeys(self.named, goal))
        learns = allocation in ("sensitivity", "time")
        ground = self.ground
        samples = ground.samples if learns else None
        curves = LayerCurves(ground.mod, ground.layers, samples, ground.tap)
        goals = {name: self._structured(curves, layer) for name, layer in self.named.items()}
        if allocation == "uniform":
            return self._that_pay(goals)
        if learns and ground.samples is not None:
            curves.scale(self._effects(curves, goals))
        if allocation == "time":
            return self._fastest(curves, goals)
        return self._spread(curves, goals)

    def _structured(self, curves: LayerCurves, layer: FloatLayer) -> Goal:
        """Return the goal of a layer at the share asked for.

        Of the structures that make it faster, if any does, that one is taken for which time, as a
        share of the dense layer's, and cost add up to least; of like times that of least cost.
        """
        share = self.options.sparsity
        if self.options.structure != AUTO:
            return Goal(structure=self.options.structure, sparsity=share)
        assert self.times is not None, "that was looked at"
        found: list[tuple[float, float, str]] = []
        for structure in STRUCTURES:
            if fits(layer, structure):
                curve = curves.curve(layer, structure)
                time = self.times.exactly(layer, structure, share)
                found.append((time, curve.lost(share), structure))
        dense = self.times.dense.get(layer.name, 0.0) or 1.0
        found = [one for one in found if one[0] < dense] or found
        best = min(found, key=lambda one: one[0] / dense + one[1])
        alike = [one for one in found if one[0] <= best[0] * _NEAR]
        return Goal(structure=min(alike, key=lambda one: one[1])[2], sparsity=share)

    def _effects(self, curves: LayerCurves, goals: Mapping[str, Goal]) -> dict[str, float]:
        """Return what lets a layer cost what it, pruned alone, does to the net's outputs."""
        ground = self.ground
        assert ground.samples is not None, "that was looked at"
        assert ground.tap is not None, "it comes with samples"
        changed = {}
        for name, layer in self.named.items():
            rows = curves.without(layer, goals[name])
            own = rows if layer.reference_bias is None else rows[:, :-1]
            weight = layer.layer.weight
            changed[layer.layer] = own.T if layer.is_matmul else own.reshape(weight.shape)
        effects = layer_effects(
            ground.mod,
            changed,
            ground.samples.spread(_BATCHES),
            ground.tap,
            lambda done, total: ground.progress("measure layers", done, total),
        )
        factors = {}
        for name, layer in self.named.items():
            cost = curves.curve(layer, goals[name].structure).lost(goals[name].sparsity)
            factors[name] = effects[name] / cost if cost > 0.0 else 1.0
        return factors

    def _spread(self, curves: LayerCurves, goals: Mapping[str, Goal]) -> dict[str, Goal]:
        """Return goals of other shares, again until all layers that are left get faster."""
        left: Mapping[str, Goal] = goals
        while left:
            own: dict[str, Curve] = {
                name: curves.curve(self.named[name], goal.structure) for name, goal in left.items()
            }
            shares = spread_threshold(own, self.options.sparsity)
            asked = {
                name: Goal(structure=goal.structure, sparsity=shares[name])
                for name, goal in left.items()
                if shares[name] > 0.0
            }
            for name in left.keys() - asked.keys():
                self.note(name, "its blocks cost more than those of other layers")
            found = self._that_pay(asked)
            if len(found) == len(asked):
                return found
            left = {name: left[name] for name in found}
        return {}

    def _fastest(self, curves: LayerCurves, goals: Mapping[str, Goal]) -> dict[str, Goal]:
        """Return the goals of least time that cost no more than uniform ones."""
        assert self.times is not None, "that was looked at"
        uniform, choices = {}, {}
        for name, layer in self.named.items():
            dense = Choice(structure="", share=0.0, time=self.times.dense.get(name, 0.0), cost=0.0)
            start = self._choice(curves, layer, goals[name].structure, self.options.sparsity)
            pays = start.time < dense.time or name not in self.ground.must_pay
            uniform[name] = start if pays else dense
            own = [dense, uniform[name]]
            structures = STRUCTURES if self.options.structure == AUTO else [self.options.structure]
            for structure in structures:
                if fits(layer, structure):
                    own += [self._choice(curves, layer, structure, share) for share in SHARES]
            choices[name] = own
        found = spend_on_time(choices, uniform)
        asked = {n: _goal(one) for n, one in found.items() if one.structure}
        plain = {n: _goal(one) for n, one in uniform.items() if one.structure}
        if sum(self.times.of(asked).values()) > sum(self.times.of(plain).values()):
            asked = plain  # between the shares that were asked for, times were guessed too low
        for name in self.named.keys() - asked.keys():
            self.note(name, "what zeros in it cost saves more time in other layers")
        return self._that_pay(asked)

    def _choice(
        self, curves: LayerCurves, layer: FloatLayer, structure: str, share: float
    ) -> Choice:
        assert self.times is not None, "that was looked at"
        return Choice(
            structure=structure,
            share=share,
            time=self.times.time(layer, structure, share),
            cost=curves.curve(layer, structure).lost(share),
        )

    def _that_pay(self, goals: Mapping[str, Goal]) -> dict[str, Goal]:
        """Return the goals of layers that get faster, or need not; others are noted."""
        if self.times is None or not goals:
            return dict(goals)
        after, found = self.times.of(goals), {}
        for name, goal in goals.items():
            old, new = self.times.dense.get(name), after.get(name)
            if name in self.ground.must_pay and old is not None and new is not None and new >= old:
                self.note(
                    name,
                    f"with {goal.sparsity:.0%} of its {goal.structure} blocks 0 it is predicted to "
                    "be no faster",
                )
            else:
                found[name] = goal
        return found


def _goal(choice: Choice) -> Goal:
    return Goal(structure=choice.structure, sparsity=choice.share)
