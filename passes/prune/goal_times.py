"""How fast layers are predicted to be with some of their blocks left out.

Asked of the real graph with the least blocks, by magnitude, of all layers left out at once: the
kernels that a target has, and those that it lacks, show. Between the shares that are asked for
times are lines.

Source: none; derived here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tvm
from tvm import relax

from tvmopt.passes.prune.changed import changed
from tvmopt.passes.prune.float_layers import FloatLayer
from tvmopt.passes.prune.layer_curves import LayerCurves
from tvmopt.passes.prune.structures import Goal, Structure
from tvmopt.passes.quantize.weight_layers import Build
from tvmopt.prediction import Predict

TIMED = (0.3, 0.5, 0.7, 0.9)


class GoalTimes:
    """The predicted times of some layers of a net.

    Attributes:
        dense: Of each step of the net as it is, by its name.
    """

    def __init__(self, mod: tvm.IRModule, layers: Sequence[FloatLayer], predict: Predict) -> None:
        """Predict the net as it is."""
        self._mod, self._layers, self._predict = mod, layers, predict
        self._blind = LayerCurves(mod, layers, None, None)
        self._found: dict[tuple[str, float], Mapping[str, float]] = {}
        self.dense = predict(mod)

    def of(self, goals: Mapping[str, Goal]) -> Mapping[str, float]:
        """Return the time of each step with what is asked of each layer, by its name."""
        changes: dict[relax.Var, Build] = {}
        for layer in self._layers:
            if layer.name in goals:
                changes |= layer.changes(self._blind.without(layer, goals[layer.name]))
        return self._predict(changed(self._mod, changes))

    def time(self, layer: FloatLayer, structure: str, share: float) -> float:
        """Return the time of a layer without a share of its blocks, in [0, 1); 0 if nobody knows.

        It is never above that of the dense layer: lowering has both kernels to choose from.
        """
        dense = self.dense.get(layer.name, 0.0)
        known = [dense, *(self._at(structure, s).get(layer.name, dense) for s in TIMED)]
        shares = (0.0, *TIMED)
        return min(dense, float(np.interp(share, shares, known)))

    def exactly(self, layer: FloatLayer, structure: str, share: float) -> float:
        """Return what ``time`` does, asked for at this very share."""
        return self._at(structure, share).get(layer.name, self.dense.get(layer.name, 0.0))

    def _at(self, structure: str, share: float) -> Mapping[str, float]:
        """Return the times with that share of that structure in all layers that it fits."""
        if (structure, share) not in self._found:
            goal = Goal(structure=structure, sparsity=share)
            fitting = {one.name: goal for one in self._layers if fits(one, structure)}
            self._found[structure, share] = self.of(fitting) if fitting else {}
        return self._found[structure, share]


def fits(layer: FloatLayer, structure: str) -> bool:
    """Say whether a layer is large enough for whole blocks of a structure."""
    shape = Structure.parse(structure)
    assert shape is not None, "structures are looked at when options are made"
    return layer.layer.outputs >= shape.outputs and layer.run % shape.inputs == 0
