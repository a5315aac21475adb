"""Ask what a layer, and what its factors, are predicted to take.

The cost model is asked for nets of the layer alone, with its bias; what follows it, such as an
activation, is the same for the layer and for its last factor. Answers are kept: most nets have many
layers of one shape.

Source: none; derived here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from tvm import relax

from tvmopt import forms, ir
from tvmopt.passes.lowrank.factors import Factor, Shape, build
from tvmopt.prediction import Predict

_SEED = 0  # of the weights that stand for factors: any will do, but for zeros
_Make = Callable[[relax.Call, forms.Emit], relax.Call]


class Clock:
    """Predicted cycles of layers."""

    def __init__(self, predict: Predict) -> None:
        """Ask ``predict``."""
        self._predict = predict
        self._known: dict[str, float] = {}

    def layer(self, call: relax.Call, *, has_bias: bool) -> float:
        """Return the cycles of a layer as it is, by its own weight."""
        return self._ask(call, has_bias, lambda same, _emit: same)

    def factors(self, call: relax.Call, shapes: Sequence[Shape], *, has_bias: bool) -> float:
        """Return the cycles of factors of some shapes that stand for ``call``."""
        key = f"{ir.shape(call.args[0])} {call.attrs} {tuple(shapes)} {has_bias}"
        if key not in self._known:
            rng = np.random.default_rng(_SEED)
            placed = [
                Factor(part=part, weight=rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:])))
                for part, shape in shapes
            ]
            self._known[key] = self._ask(
                call, has_bias, lambda same, emit: build(same, placed, "layer", emit)
            )
        return self._known[key]

    def _ask(self, call: relax.Call, has_bias: bool, make: _Make) -> float:
        data = relax.Var("data", call.args[0].ty)
        outputs = ir.static_shape(call)[-1]
        builder = relax.BlockBuilder()
        with builder.function("main", [data]):
            with builder.dataflow():
                alone = ir.with_changes(call, [data, call.args[1]])
                result = builder.emit(make(alone, builder.emit), "layer")
                if has_bias:
                    bias = np.ones((1,) * (len(ir.shape(call)) - 1) + (outputs,), np.float32)
                    result = relax.op.add(result, relax.const(bias))
                result = builder.emit_output(result)
            builder.emit_func_output(result)
        return sum(self._predict(builder.finalize()).values())
