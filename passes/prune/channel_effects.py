"""Measure what the loss of channels does to the outputs of the net.

What a layer that reads the channels loses may die out on its way to the outputs, or grow: behind a
residual sum it is small beside the stream, and in front of the classifier it is all there is. So
each group loses some channels once, with nothing fitted, and the error of the net's outputs over
what its readers lose then weighs whatever they lose. One net serves all groups: what layers read is
multiplied by masks that are inputs of it.

Source: none; derived here. That layers differ in how much they matter to the outputs: Z. Dong et
al., "HAWQ: Hessian aware quantization of neural networks with mixed precision", ICCV 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.calibration import Samples, Tap
from tvmopt.passes.prune.channel_candidates import Candidate
from tvmopt.passes.prune.channel_loss import Ladder, Reader
from tvmopt.passes.prune.float_layers import FloatLayer
from tvmopt.passes.quantize.sensitivity import output_distance

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
    layers = {layer.name: layer for one in candidates for layer, _ in one.readers}
    masks = {
        layer.var: relax.Var(f"{name}__mask", _mask_type(layer)) for name, layer in layers.items()
    }
    names = _outputs(mod)
    step = tap(_masked(mod, masks), names)

    def run(gone: Mapping[relax.Var, np.ndarray]) -> Iterator[np.ndarray]:
        shown = {mask.name: np.ones(ir.static_shape(mask), np.float32) for mask in masks.values()}
        for var, channels in gone.items():
            shown[masks[var].name][channels] = 0.0
        for feed in some:
            values = step({**feed, **shown})
            yield np.concatenate([values[name].reshape(-1) for name in names])

    wanted = list(run({}))
    result = []
    for number, (one, seen, ladder) in enumerate(zip(candidates, readers, ladders, strict=True)):
        tell("weigh channels", number, len(candidates))
        goal = one.group.size * (1.0 - _SHARE)
        count = min(ladder.counts, key=lambda count: abs(count - goal))
        left = np.zeros((one.rows, one.group.size), bool)
        np.put_along_axis(left, ladder.kept(count), True, axis=1)
        pairs = list(zip(one.readers, seen, strict=True))
        lost = sum(_plain_loss(reader, places[~left].reshape(-1)) for (_, places), reader in pairs)
        # A layer's inputs are its taps' channels, one tap behind the other.
        gone = {
            layer.var: places[~left].reshape(-1) % _inputs(layer) for layer, places in one.readers
        }
        error = output_distance(run(gone), iter(wanted))
        result.append(error / lost if lost > 0.0 else 1.0)
    return result


def _inputs(layer: FloatLayer) -> int:
    return layer.layer.weight.shape[layer.layer.input_axis]


def _mask_type(layer: FloatLayer) -> relax.TensorType:
    return relax.TensorType((_inputs(layer),), "float32")


def _masked(mod: tvm.IRModule, masks: Mapping[relax.Var, relax.Var]) -> tvm.IRModule:
    """Return the module with what some layers read times masks, one a channel, as parameters."""
    func = mod["main"]
    fresh = {param: relax.Var(param.name, param.ty) for param in func.params}
    env: dict[relax.Var, relax.Expr] = dict(fresh)
    builder = relax.BlockBuilder()
    with builder.function("main", [*fresh.values(), *masks.values()]):
        with builder.dataflow():
            for var, value in ir.bindings(func):
                new = ir.substitute(value, env)
                if var in masks:
                    data = builder.emit(relax.op.multiply(new.args[0], masks[var]))
                    new = ir.with_changes(new, [data, *new.args[1:]])
                env[var] = builder.emit(new, var.name)
            result = builder.emit_output(ir.substitute(func.body.body, env))
        builder.emit_func_output(result)
    part = mod.clone()
    part["main"] = builder.finalize()["main"]
    return part


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
