"""Measure what the loss of channels does to the outputs of the net.

What a layer that reads the channels loses may die out on its way to the outputs, or grow: behind a
residual sum it is small beside the stream, and in front of the classifier it is all there is. So
each group loses some channels once, with nothing fitted, and the error of the net's outputs over
what its readers lose then weighs whatever they lose.

Source: none; derived here. That layers differ in how much they matter to the outputs: Z. Dong et
al., "HAWQ: Hessian aware quantization of neural networks with mixed precision", ICCV 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.calibration import Samples, Tap
from tvmopt.passes.canonicalize.rebuild import rebuild_main
from tvmopt.passes.prune.channel_candidates import Candidate
from tvmopt.passes.prune.channel_loss import Ladder, Reader
from tvmopt.passes.quantize.sensitivity import output_distance
from tvmopt.passes.quantize.weight_layers import Build

_BATCHES = 16  # of the samples that are run for each group
_SHARE = 0.25  # of a group that goes


def output_effects(
    mod: tvm.IRModule,
    candidates: Sequence[Candidate],
    readers: Sequence[Sequence[Reader]],
    ladders: Sequence[Ladder],
    samples: Samples,
    tap: Tap,
    tell: Callable[[str, int, int], None],
) -> list[float]:
    """Return, for each candidate, the error of the outputs over what its readers lose.

    Args:
        mod: The net as it is.
        candidates: Groups of channels.
        readers: Of each, as least squares sees them.
        ladders: In which order the units of each go.
        samples: What to run.
        tap: Compiles modules for this machine.
        tell: Is told of each candidate.
    """
    some = samples.spread(_BATCHES)
    names = _outputs(mod)

    def run(net: tvm.IRModule) -> list[np.ndarray]:
        step = tap(net, names)
        return [np.concatenate([step(feed)[name].reshape(-1) for name in names]) for feed in some]

    wanted = run(mod)
    result = []
    for number, (one, seen, ladder) in enumerate(zip(candidates, readers, ladders, strict=True)):
        tell("weigh channels", number, len(candidates))
        goal = one.group.size * (1.0 - _SHARE)
        count = min(ladder.counts, key=lambda count: abs(count - goal))
        left = np.zeros((one.rows, one.group.size), bool)
        np.put_along_axis(left, ladder.kept(count), True, axis=1)
        changes: dict[relax.Var, Build] = {}
        lost = 0.0
        for (layer, places), reader in zip(one.readers, seen, strict=True):
            gone = places[~left].reshape(-1)
            rows = layer.rows()
            lost += _plain_loss(reader, gone)
            rows[:, gone] = 0.0
            changes.update(layer.changes(rows))
        error = output_distance(iter(run(changed(mod, changes))), iter(wanted))
        result.append(error / lost if lost > 0.0 else 1.0)
    return result


def changed(mod: tvm.IRModule, changes: Mapping[relax.Var, Build]) -> tvm.IRModule:
    """Return the module with other values bound to some variables."""

    def rule(var: relax.Var, value: relax.Expr) -> relax.Expr:
        return changes[var](value, lambda expr, _name: expr) if var in changes else value

    return rebuild_main(mod, lambda _graph: rule)


def _plain_loss(reader: Reader, gone: np.ndarray) -> float:
    """Return what a reader loses without some inputs when nothing makes up for them."""
    weight = reader.weight[:, gone]
    return float(np.sum((weight @ reader.hessian[np.ix_(gone, gone)]) * weight)) / reader.energy


def _outputs(mod: tvm.IRModule) -> list[str]:
    """Return the names of what "main" returns."""
    result = mod["main"].body.body
    value = dict(ir.bindings(mod["main"])).get(result, result)
    fields = value.fields if isinstance(value, relax.Tuple) else [result]
    return list(dict.fromkeys(field.name for field in fields if isinstance(field, relax.Var)))
