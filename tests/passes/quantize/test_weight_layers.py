"""Layers whose stored weights can be changed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm
from tvm import relax

from tvmopt import forms, ir
from tvmopt.passes.quantize.weight_layers import WeightLayer, change_bias, find_layers

QuantizeNet = Callable[..., tvm.IRModule]
Build = Callable[..., tvm.IRModule]


def _find(mod: tvm.IRModule, reference: tvm.IRModule) -> tuple[list[WeightLayer], dict[str, str]]:
    left: dict[str, str] = {}
    return list(find_layers(mod, reference, left.__setitem__)), left


def test_each_layer_is_found_with_what_it_was(
    small_net: tvm.IRModule, quantize_net: QuantizeNet
) -> None:
    layers, left = _find(quantize_net(weight_bits=5, sensitive_bits=8), small_net)
    names = ["stem_conv2d", "deep_conv2d", "point_conv2d", "left_matmul", "right_matmul"]
    assert [layer.name for layer in layers] == names
    assert left == {}
    assert [layer.patches.groups for layer in layers] == [1, 16, 1, 1, 1]
    assert [layer.bias is not None for layer in layers] == [True, True, True, True, False]
    assert layers[3].data.same_as(layers[4].data)
    for layer in layers:
        # Half a step of the coarsest grid, and an int32 bias in steps of sx * sw.
        step = layer.stored.how.along(layer.stored.how.scale, layer.weight.ndim)
        inside = np.abs(layer.weight) < 14 * step  # those that no range clips
        assert np.all(np.abs(layer.stored.value() - layer.weight)[inside] <= 0.51 * step.max())
        if layer.bias is not None:
            np.testing.assert_allclose(layer.bias.value, layer.reference_bias, atol=1e-3)


def test_rows_and_back_is_the_weight(small_net: tvm.IRModule, quantize_net: QuantizeNet) -> None:
    for layer in _find(quantize_net(), small_net)[0]:
        rows = layer.rows(layer.weight)
        groups, outputs, _ = rows.shape
        assert groups * outputs == layer.weight.shape[layer.output_axis]
        np.testing.assert_array_equal(layer.unrowed(rows), layer.weight)
        first = np.moveaxis(layer.weight, layer.output_axis, 0)[0]
        np.testing.assert_array_equal(rows[0, 0], first.reshape(-1))


def test_floats_are_no_layers(small_net: tvm.IRModule) -> None:
    assert _find(small_net, small_net) == ([], {})


def test_what_cannot_be_changed_is_noted_with_its_reason(build: Build) -> None:
    codes = np.ones((4, 4), "i1")
    how = forms.Affine(scale=np.float32(0.5), zero_point=np.zeros((), "i4"), dtype="int8", axis=0)

    def shared(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        weight = forms.Dequantized(codes=codes, how=how).build(builder.emit, "weight")
        once = builder.emit(relax.op.matmul(x, weight), "once")
        return relax.op.add(once, builder.emit(relax.op.matmul(x, weight), "twice"))

    def table(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        book = forms.Codebook(table=np.ones(4, "f4"), codes=codes.astype("u1"))
        once = builder.emit(relax.op.matmul(x, book.build(builder.emit, "weight")), "once")
        return relax.op.nn.relu(once)

    def plain(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        weight = relax.const(np.ones((4, 4), "f4"))
        once = builder.emit(relax.op.matmul(x, weight), "once")
        return relax.op.add(once, builder.emit(relax.op.matmul(x, weight), "twice"))

    reference = build(plain, (2, 4))
    reason = "its weight is shared with another operator"
    assert _find(build(shared, (2, 4)), reference) == ([], {"once": reason, "twice": reason})
    reason = "its weight is not stored as integers with scales"
    assert _find(build(table, (2, 4)), reference) == ([], {"once": reason})
    other = build(lambda builder, x: builder.emit(relax.op.nn.relu(x), "once"), (2, 4))
    assert _find(_single(build), other) == (
        [],
        {"once": "the graph of floats has no such operator"},
    )


def _single(build: Build) -> tvm.IRModule:
    how = forms.Affine(scale=np.float32(0.5), zero_point=np.zeros((), "i4"), dtype="int8")

    def body(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        stored = forms.Dequantized(codes=np.ones((4, 4), "i1"), how=how)
        weight = stored.build(builder.emit, "weight")
        return relax.op.nn.relu(builder.emit(relax.op.matmul(x, weight), "once"))

    return build(body, (2, 4))


def test_a_bias_that_others_read_too_is_not_taken(build: Build) -> None:
    def net(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        weight = relax.const(np.eye(4, dtype="f4"))
        once = builder.emit(relax.op.matmul(x, weight), "once")
        total = builder.emit(relax.op.add(once, relax.const(np.ones(4, "f4"))), "total")
        return relax.op.multiply(total, once)

    how = forms.Affine(scale=np.float32(1), zero_point=np.zeros((), "i4"), dtype="int8")

    def quantized(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        stored = forms.Dequantized(codes=np.eye(4, dtype="i1"), how=how)
        once = builder.emit(relax.op.matmul(x, stored.build(builder.emit, "weight")), "once")
        total = builder.emit(relax.op.add(once, relax.const(np.ones(4, "f4"))), "total")
        return relax.op.multiply(total, once)

    ((layer,), left) = _find(build(quantized, (2, 4)), build(net, (2, 4)))
    assert left == {}
    assert layer.bias is None
    assert layer.reference_bias is None
    assert ir.static_shape(layer.var) == (2, 4)


def _weight_only(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
    how = forms.Affine(scale=np.float32(1), zero_point=np.zeros((), "i4"), dtype="int8")
    stored = forms.Dequantized(codes=np.eye(4, dtype="i1"), how=how)
    once = builder.emit(relax.op.matmul(x, stored.build(builder.emit, "weight")), "once")
    return relax.op.nn.relu(
        builder.emit(relax.op.add(relax.const(np.ones((1, 4), "f4")), once), "total")
    )


def test_a_bias_of_floats_is_changed_where_it_stands(build: Build) -> None:
    def floats(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        once = builder.emit(relax.op.matmul(x, relax.const(np.eye(4, dtype="f4"))), "once")
        return relax.op.nn.relu(
            builder.emit(relax.op.add(once, relax.const(np.ones(4, "f4"))), "total")
        )

    mod = build(_weight_only, (2, 4))
    ((layer,), _) = _find(mod, build(floats, (2, 4)))
    assert layer.bias is not None
    assert layer.bias.data is None
    var, make = change_bias(layer.bias, layer.stored, np.arange(4.0))
    total = dict(ir.bindings(mod["main"]))[var]
    changed = make(total, lambda expr, _: expr)
    np.testing.assert_array_equal(ir.float_constant(changed.args[0]), [[0.0, 1.0, 2.0, 3.0]])
    assert changed.args[1].same_as(total.args[1])


def test_a_bias_of_integers_is_rounded_in_units_of_the_products_scale(
    small_net: tvm.IRModule, quantize_net: QuantizeNet
) -> None:
    mod = quantize_net()
    layer = _find(mod, small_net)[0][0]
    wanted = np.linspace(-1.0, 1.0, 16)
    wanted[3] = 1e30  # nothing that was calibrated; it must not wrap around
    var, make = change_bias(layer.bias, layer.stored, wanted)
    assert var.same_as(layer.bias.held)
    made = make(dict(ir.bindings(mod["main"]))[var], lambda expr, _: expr)
    codes = forms.match_bias(made, lambda e: e, layer.bias.data, layer.stored.how)
    unit = forms.bias_how(layer.bias.data, layer.stored.how, 0).scale.astype("f8")
    ordinary = np.arange(16) != 3
    # Half a unit, and the rounding of one product in float64.
    assert np.all(np.abs(codes * unit - wanted)[ordinary] <= 0.5 * unit[ordinary] * (1 + 1e-9))
    assert codes[3] == np.iinfo(np.int32).max
