"""Measure what layers, each changed alone, do to the outputs of a net: one compile for all.

In a copy of the net every layer gives ``op(x, W) + gate op(x, D)``, D the change of its weight; the
gates are an input. With all at 0 it is the net, with one at 1 that layer alone is changed. So each
sample runs once for each layer, in a net of twice the work, and nothing is compiled but once.

Source: none; derived here. The measure is that of ``quantize.sensitivity``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.calibration import Samples, Tap
from tvmopt.errors import DataError
from tvmopt.passes.canonicalize.rebuild import variables
from tvmopt.passes.quantize.layers import Layer

GATES = "tvmopt_gates"


def layer_effects(
    mod: tvm.IRModule,
    changed: Mapping[Layer, np.ndarray],
    samples: Samples,
    tap: Tap,
    tell: Callable[[int, int], None],
) -> dict[str, float]:
    """Return the squared error of the outputs, as a share of their square, for each layer.

    Args:
        mod: A graph of floats with distinct names.
        changed: The other weight of each layer, float32, in its own layout.
        samples: What to run.
        tap: Compiles modules for this machine.
        tell: Is told how many batches are done, and how many there are.

    Raises:
        DataError: Outputs are not finite.
    """
    layers = list(changed)
    gated = _gated(mod, changed)
    names = _outputs(gated)
    if not layers or not names:
        return dict.fromkeys((layer.name for layer in layers), 0.0)
    run = tap(gated, names)
    errors, energy = np.zeros(len(layers)), 0.0
    for number, feed in enumerate(samples):
        tell(number, len(samples))

        def outputs(gates: np.ndarray, feed: Mapping[str, np.ndarray] = feed) -> np.ndarray:
            made = run({**feed, GATES: gates})
            return np.concatenate([made[n].reshape(-1).astype(np.float64) for n in names])

        wanted = outputs(np.zeros(len(layers), np.float32))
        energy += float(np.sum(np.square(wanted)))
        for i in range(len(layers)):
            gates = np.zeros(len(layers), np.float32)
            gates[i] = 1.0
            errors[i] += float(np.sum(np.square(outputs(gates) - wanted)))
    tell(len(samples), len(samples))
    if not np.isfinite(errors).all() or not np.isfinite(energy):
        raise DataError(
            "outputs must be finite for every calibration sample, got NaN or infinities; look at "
            "the samples"
        )
    return {
        layer.name: float(error) / (energy or 1.0)
        for layer, error in zip(layers, errors, strict=True)
    }


def _gated(mod: tvm.IRModule, changed: Mapping[Layer, np.ndarray]) -> tvm.IRModule:
    """Return the net with a last input of gates, (layers,)."""
    func = mod["main"]
    number = {layer.var: i for i, layer in enumerate(changed)}
    weights = {layer.var: weight - layer.weight for layer, weight in changed.items()}
    gates = relax.Var(GATES, relax.TensorType((max(1, len(changed)),), "float32"))
    env: dict[relax.Var, relax.Expr] = {param: param for param in func.params}
    builder = relax.BlockBuilder()
    with builder.function("main", [*func.params, gates]):
        with builder.dataflow():
            for var, value in ir.bindings(func):
                new = ir.substitute(value, env)
                made = builder.emit(new, var.name)
                if var in number:
                    i = number[var]
                    change = relax.const(np.ascontiguousarray(weights[var], np.float32))
                    other = builder.emit(ir.with_changes(new, [new.args[0], change]))
                    gate = builder.emit(relax.op.strided_slice(gates, [0], [i], [i + 1]))
                    made = builder.emit(relax.op.add(made, relax.op.multiply(other, gate)))
                env[var] = made
            result = builder.emit_output(ir.substitute(func.body.body, env))
        builder.emit_func_output(result)
    gated = mod.clone()
    gated["main"] = builder.finalize()["main"]
    return ir.unique_names(gated)


def _outputs(mod: tvm.IRModule) -> list[str]:
    """Return the bindings that "main" returns, each once."""
    values = dict(ir.bindings(mod["main"]))
    result = mod["main"].body.body
    value = values.get(result, result)
    read = variables(value) if isinstance(value, relax.Tuple) else [result]
    return list(dict.fromkeys(var.name for var in read if var in values))
