"""Write a graph anew in which chosen tensors are integers: the rule of ``QuantizeStatic``.

Names stay: a layer's operator, what is added behind it and what is moved keep the names they had;
the integers of a tensor t are ``t_quantized``, and what reads t reads ``t_dequantized``.

Source: none; the forms are those of ``tvmopt/forms``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from tvm import relax

from tvmopt import forms, ir
from tvmopt.passes.canonicalize.rebuild import Rebuild, variables
from tvmopt.passes.quantize import operators
from tvmopt.passes.quantize.byte_inputs import source_of
from tvmopt.passes.quantize.integer_flow import IntegerFlow
from tvmopt.passes.quantize.layers import Layer

QuantizeWeight = Callable[[Layer, forms.Affine], forms.Dequantized]
"""Takes a layer and how its input is quantized; returns its weight in integers."""


class IntegerRewriter:
    """The rule for one function."""

    def __init__(
        self,
        graph: Rebuild,
        flow: IntegerFlow,
        hows: Mapping[str, forms.Affine],
        layers: Mapping[relax.Var, Layer],
        quantize_weight: QuantizeWeight,
    ) -> None:
        """Quantize the parameters that are to be integers, and begin.

        Args:
            graph: The function, not yet rebuilt.
            flow: Which tensors are to be integers.
            hows: What the integers of a tensor mean, by the name of the tensor whose range they
                span.
            layers: Those that are to compute with integers.
            quantize_weight: Quantizes their weights.
        """
        self.graph, self.flow, self.hows, self.layers = graph, flow, hows, layers
        self.quantize_weight = quantize_weight
        self.of_bias = {
            layer.bias_var: layer for layer in layers.values() if layer.bias_var is not None
        }
        self.data: dict[relax.Var, forms.Affine] = {}
        self.weights: dict[relax.Var, forms.Affine] = {}
        self.parts: dict[relax.Expr, forms.Affine] = {}
        self.floats: dict[relax.Var, relax.Expr] = {}
        for var in flow.ranges:
            if var not in graph.old:
                graph.bind(var, self._quantized(var, var))

    def __call__(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        """Return what to bind to ``var`` instead of ``value``."""
        if var in self.flow.plain:
            value = self._plain(var)
        if var in self.layers:
            return self._stored(var, self._layer(self.layers[var], value))
        if var in self.of_bias:
            return self._stored(var, self._sum(self.of_bias[var], value))
        if var in self.flow.bytes:
            source = source_of(var, self.graph.old)
            return forms.dequantize(self.graph.renew(source), self.flow.bytes[var])
        moved = self._moved(var, value)
        return self._stored(var, value) if moved is None else moved

    def _stored(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        """Return ``value``, or, where it is to be integers, what its readers are to read."""
        if var not in self.flow.ranges:
            return value
        return self._quantized(var, self.graph.emit(value, var.name))

    def _plain(self, var: relax.Var) -> relax.Expr:
        """Return the old value of ``var`` with some operands as floats, the others as they are."""
        names = {read: self.graph.now(read) for read in variables(self.graph.old[var])}
        names |= {read: self.floats[read] for read in self.flow.plain[var]}
        return ir.substitute(self.graph.old[var], names)

    def _quantized(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        self.floats[var] = value
        how = self.hows[self.flow.ranges[var].name]
        codes = self.graph.emit(forms.quantize(value, how), f"{var.name}_quantized")
        return self.graph.emit(forms.dequantize(codes, how), f"{var.name}_dequantized")

    def _integers(self, expr: relax.Expr) -> tuple[relax.Expr, forms.Affine] | None:
        """Return the integers behind an operand, and what they mean, if it has one scale."""
        found = forms.match_dequantize(self.graph.definition(expr))
        return None if found is None or found[1].scale.ndim else found

    def _layer(self, layer: Layer, call: relax.Call) -> relax.Call:
        found = self._integers(call.args[0])
        assert found is not None, f"the input of layer {layer.name} is not quantized"
        stored = self.quantize_weight(layer, found[1])
        self.data[layer.var], self.weights[layer.var] = found[1], stored.how
        weight = stored.build(self.graph.emit, f"{layer.name}_weight")
        return ir.with_changes(call, [call.args[0], weight])

    def _sum(self, layer: Layer, call: relax.Call) -> relax.Call:
        """Return the addition of a bias in units of the accumulators."""
        place = next(i for i, arg in enumerate(call.args) if ir.is_constant(arg))
        shape = ir.static_shape(call.args[place])
        how = forms.bias_how(self.data[layer.var], self.weights[layer.var], len(shape) - 1)
        assert layer.bias is not None
        # In float64: the quotient may have more digits than a float32 holds.
        codes = np.rint(layer.bias.astype(np.float64) / how.scale.astype(np.float64))
        bias = forms.Dequantized(codes=codes.astype(np.int32).reshape(shape), how=how)
        args = list(call.args)
        args[place] = bias.build(self.graph.emit, f"{layer.name}_bias")
        return ir.with_changes(call, args)

    def _moved(self, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        """Let what only moves elements work on integers; None where it does not apply."""
        if isinstance(value, relax.TupleGetItem):
            how = self.parts.get(value.tuple_value)
            return None if how is None else self._moved_to(var, value, how)
        if ir.is_call_to(value, "relax.concat"):
            return self._concatenated(var, value)
        if not operators.is_move(value):
            return None
        found = self._integers(value.args[0])
        if found is None:
            return None
        changes = {}
        if ir.is_call_to(value, "relax.nn.pad"):
            changes = {"pad_value": float(found[1].zero_point)}
        call = ir.with_changes(value, [found[0], *value.args[1:]], **changes)
        if not ir.is_call_to(value, "relax.split"):
            return self._moved_to(var, call, found[1])
        parts = self.graph.emit(call, var.name)
        self.parts[parts] = found[1]
        return parts

    def _concatenated(self, var: relax.Var, call: relax.Call) -> relax.Expr | None:
        found = [self._integers(field) for field in call.args[0].fields]
        known = [one for one in found if one is not None]
        if len(known) < len(found) or not all(one[1].same(known[0][1]) for one in known):
            return None
        codes = relax.Tuple([one[0] for one in known])
        return self._moved_to(var, relax.Call(call.op, [codes], call.attrs), known[0][1])

    def _moved_to(self, var: relax.Var, value: relax.Expr, how: forms.Affine) -> relax.Expr:
        codes = self.graph.emit(value, var.name)
        return self.graph.emit(forms.dequantize(codes, how), f"{var.name}_dequantized")
