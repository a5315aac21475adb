"""Run a net of floats in which each layer can be switched to what integers make of it.

For every layer that has a quantized twin, and one more input ``s``, a single number::

    y = conv2d | matmul(x, weight)
    q = conv2d | matmul(dequantize(quantize(x)), dequantize(codes))  + (bias of integers - bias)
    y + s * (q - y)

So that what each layer alone does to the outputs takes one compile for all layers.

Source: none; derived here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tvm
from tvm import relax

from tvmopt import forms, ir
from tvmopt.passes.quantize.weight_layers import Reader, WeightLayer


def with_switches(
    mod: tvm.IRModule, reference: tvm.IRModule, layers: Sequence[WeightLayer]
) -> tuple[tvm.IRModule, tuple[str, ...]]:
    """Return the net of floats with switches, and the names of these inputs, one for each layer.

    Args:
        mod: The quantized module.
        reference: The module before; its names differ.
        layers: Of both.
    """
    func, reader = reference["main"], Reader(mod)
    taken = {var.name for var in [*func.params, *(var for var, _ in ir.bindings(func))]}
    twins = {layer.reference: layer for layer in layers}
    names = {layer.name: _fresh(f"{layer.name}_switch", taken) for layer in layers}
    switches = {name: relax.Var(names[name], relax.TensorType((1,), "float32")) for name in names}
    params = [*func.params, *switches.values()]
    builder = relax.BlockBuilder()
    env: dict[relax.Var, relax.Expr] = {param: param for param in func.params}
    with builder.function("main", params):
        with builder.dataflow():
            for var, value in ir.bindings(func):
                new = ir.substitute(value, env)
                if var in twins:
                    layer = twins[var]
                    new = _switched(builder, new, layer, reader, switches[layer.name])
                env[var] = builder.emit(new, var.name)
            output = builder.emit_output(ir.substitute(func.body.body, env))
        builder.emit_func_output(output)
    switched = reference.clone()
    switched["main"] = builder.finalize()["main"]
    return switched, tuple(names.values())


def settings(names: Sequence[str], on: Sequence[bool]) -> dict[str, np.ndarray]:
    """Return the inputs that set the switches of these names."""
    return {name: np.array([flag], np.float32) for name, flag in zip(names, on, strict=True)}


def _switched(
    builder: relax.BlockBuilder,
    call: relax.Call,
    layer: WeightLayer,
    reader: Reader,
    switch: relax.Var,
) -> relax.Call:
    """Return the operator's value, as floats or as integers make it."""
    plain = builder.emit(call, f"{layer.name}_plain")
    data = call.args[0]
    found = forms.match_dequantize(reader.define(reader.values[layer.var].args[0]))
    if found is not None:
        codes = builder.emit(forms.quantize(data, found[1]), f"{layer.name}_codes")
        data = builder.emit(forms.dequantize(codes, found[1]), f"{layer.name}_data")
    weight = relax.const(layer.stored.value().astype(np.float32))
    other = builder.emit(ir.with_changes(call, [data, weight]), f"{layer.name}_integers")
    if layer.bias is not None and layer.reference_bias is not None:
        moved = (layer.bias.value - layer.reference_bias).astype(np.float32)
        other = builder.emit(relax.op.add(other, relax.const(moved)), f"{layer.name}_moved")
    gap = builder.emit(relax.op.subtract(other, plain), f"{layer.name}_gap")
    return relax.op.add(plain, builder.emit(relax.op.multiply(gap, switch), f"{layer.name}_part"))


def _fresh(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name
