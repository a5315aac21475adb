"""Mirror of passes/quantize/integer_rewriter.py: what runs on integers, and what it computes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import forms, ir
from tvmopt.calibration import Samples, Tap
from tvmopt.passes.quantize.quantize_static import QuantizeStatic, QuantizeStaticOptions
from tvmopt.report import Report

Build = Callable[..., tvm.IRModule]
Convolve = Callable[..., relax.Expr]
Layer = Callable[..., relax.Expr]
Emit = Callable[..., relax.Expr]
MakeSamples = Callable[..., Samples]
Make = Callable[[Layer, Emit, relax.Expr], relax.Expr]

SHAPE = (1, 4, 4, 4)
op, nn = relax.op, relax.op.nn
POOL = {"strides": (2, 2), "padding": (1, 1), "layout": "NHWC", "out_layout": "NHWC"}


def _moved(move: Callable[[relax.Expr], relax.Expr]) -> Make:
    return lambda layer, e, x: layer(e(move(layer(x, "a")), "moved"), "b")


def _concat(layer: Layer, e: Emit, x: relax.Expr) -> relax.Expr:
    return layer(e(op.concat([layer(x, "a"), layer(x, "b")], axis=3), "moved"), "next")


def _mixed_concat(layer: Layer, e: Emit, x: relax.Expr) -> relax.Expr:
    a, b = layer(x, "a", act=op.sigmoid), layer(x, "b")  # at most 1, and more
    whole = e(op.concat([a, b], axis=3), "whole")
    return e(op.add(layer(whole, "next"), layer(a, "other")), "sum")


def _split(layer: Layer, e: Emit, x: relax.Expr) -> relax.Expr:
    parts = e(op.split(layer(x, "a", 8), 2, axis=3), "parts")
    one, two = e(parts[0], "moved"), e(parts[1], "two")
    return e(op.add(layer(one, "b"), layer(two, "c")), "sum")


def _gated(layer: Layer, e: Emit, x: relax.Expr) -> relax.Expr:
    y = layer(x, "a")
    gate = layer(e(op.mean(y, axis=[1, 2], keepdims=True), "pooled"), "up", act=op.sigmoid)
    return layer(e(op.multiply(y, gate), "scaled"), "next")


def _table(layer: Layer, e: Emit, x: relax.Expr) -> relax.Expr:
    y = layer(x, "a", act=None)
    one, two = e(nn.relu(y), "one"), e(op.tanh(y), "two")
    return e(op.add(layer(one, "b"), layer(two, "c")), "sum")


MOVES: dict[str, Make] = {
    "max pooling of padded integers": _moved(
        lambda y: nn.max_pool2d(op.negative(y), (3, 3), **POOL)
    ),
    "pad": _moved(lambda y: nn.pad(op.negative(y), (0, 0, 1, 2, 0, 1, 0, 0))),
    "reshape": _moved(lambda y: op.reshape(y, (1, 2, 8, 4))),
    "permutation": _moved(lambda y: op.permute_dims(y, [0, 2, 1, 3])),
    "slice": _moved(lambda y: op.strided_slice(y, [1], [0], [2])),
    "nearest resize": _moved(
        lambda y: op.image.resize2d(y, (8, 8), layout="NHWC", method="nearest_neighbor")
    ),
    "concatenation": _concat,
    "split": _split,
}
GRAPHS = MOVES | {
    "concatenation of two grids": _mixed_concat,
    "gate": _gated,
    "table": _table,
}


@pytest.fixture
def graph(build: Build, convolve: Convolve) -> Callable[[Make], tvm.IRModule]:
    def make(graph: Make) -> tvm.IRModule:
        def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
            def emit(value: relax.Expr, name: str) -> relax.Var:
                if ir.is_call_to(
                    value, "relax.nn.max_pool2d", "relax.nn.pad"
                ):  # its operand is a call, too
                    value = ir.with_changes(value, [bb.emit(value.args[0], "negative")])
                return bb.emit(value, name)

            def layer(y: relax.Expr, name: str, outputs: int = 4, **how: object) -> relax.Expr:
                return convolve(bb, y, name, outputs, **how)

            return graph(layer, emit, x)

        return build(body, SHAPE)

    return make


@pytest.mark.parametrize("name", GRAPHS)
def test_quantized_graph_computes_nearly_what_the_floats_compute(
    graph: Callable, tap: Tap, make_samples: MakeSamples, name: str
) -> None:
    mod, data = graph(GRAPHS[name]), make_samples(SHAPE)
    quantized = QuantizeStatic(QuantizeStaticOptions(), data, tap, Report())(mod)
    before, after = (tap(m, [m["main"].body.body.name]) for m in (mod, quantized))
    for feed in data:
        (floats,), (integers,) = before(feed).values(), after(feed).values()
        # Rounding moves each of at most four tensors on the way by half of 1/255 of its range,
        # and 36 weights by half of 1/127: some 1 % of the spread. A wrong zero point, a lost
        # padding or a swapped operand moves the result by its spread.
        assert np.abs(integers - floats).max() < 0.04 * np.ptp(floats)
    if name in MOVES:
        values = {v.name: (v, b) for v, b in ir.bindings(quantized["main"])}
        moved, _ = values["moved"]
        assert ir.dtype(moved) == "uint8"
        assert values["moved_dequantized"][1].args[0].same_as(moved)
        assert "moved_quantized" not in values


def test_what_operators_of_floats_give_each_other_is_not_rounded(
    graph: Callable, tap: Tap, make_samples: MakeSamples
) -> None:
    def make(layer: Layer, e: Emit, x: relax.Expr) -> relax.Expr:
        soft = e(nn.softmax(x), "soft")
        return e(nn.softmax(e(op.add(layer(soft, "a", act=None), soft), "residual")), "again")

    quantize = QuantizeStatic(QuantizeStaticOptions(), make_samples(SHAPE), tap, Report())
    values = {v.name: b for v, b in ir.bindings(quantize(graph(make))["main"])}
    assert values["a_conv2d"].args[0].name == "soft_dequantized"
    assert [arg.name for arg in values["residual"].args] == ["a", "soft"]


def test_parts_of_one_concatenation_have_its_grid(
    graph: Callable, tap: Tap, make_samples: MakeSamples
) -> None:
    quantize = QuantizeStatic(QuantizeStaticOptions(), make_samples(SHAPE), tap, Report())
    values = {v.name: b for v, b in ir.bindings(quantize(graph(_concat))["main"])}
    hows = [forms.match_quantize(values[f"{name}_act_quantized"])[1] for name in "ab"]
    assert hows[0].same(hows[1])
    assert hows[0].same(forms.match_dequantize(values["moved_dequantized"])[1])


def test_concatenation_of_two_grids_is_quantized_anew(
    graph: Callable, tap: Tap, make_samples: MakeSamples
) -> None:
    quantize = QuantizeStatic(QuantizeStaticOptions(), make_samples(SHAPE), tap, Report())
    values = {v.name: b for v, b in ir.bindings(quantize(graph(_mixed_concat))["main"])}
    assert [field.name for field in values["whole"].args[0].fields] == [
        "a_act_dequantized",
        "b_act_dequantized",
    ]
    assert "whole_quantized" in values
