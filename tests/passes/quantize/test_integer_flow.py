"""Mirror of passes/quantize/integer_flow.py, with operators.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt.passes.canonicalize.rebuild import Rebuild
from tvmopt.passes.quantize.integer_flow import find_flow
from tvmopt.passes.quantize.layers import find_layers

Build = Callable[..., tvm.IRModule]
Convolve = Callable[..., relax.Expr]
Body = Callable[..., relax.Expr]
Layer = Callable[..., relax.Expr]
Emit = Callable[..., relax.Expr]
Flow = Callable[..., dict[str, str]]

SHAPE = (1, 4, 4, 4)
op, nn = relax.op, relax.op.nn
HOW = {"layout": "NHWC", "out_layout": "NHWC"}


@pytest.fixture
def flow(build: Build, convolve: Convolve) -> Flow:
    """What is quantized in a graph, by name: the tensor to the one whose range its grid spans."""

    def call(
        make: Callable[[Layer, Emit, relax.Expr], relax.Expr], *, floats: tuple[str, ...] = ()
    ) -> dict[str, str]:
        def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
            def layer(y: relax.Expr, name: str, outputs: int = 4, **how: object) -> relax.Expr:
                return convolve(bb, y, name, outputs, **how)

            return make(layer, bb.emit, x)

        func = build(body, SHAPE)["main"]
        layers = {v: one for v, one in find_layers(func).items() if one.name not in floats}
        found = find_flow(Rebuild(func, relax.BlockBuilder()), layers)
        assert not found.bytes
        return {var.name: source.name for var, source in found.ranges.items()}

    return call


def _own(*names: str) -> dict[str, str]:
    return {name: name for name in names}


def test_chain_is_quantized_behind_each_activation(flow: Flow) -> None:
    # The last layer gives floats.
    assert flow(lambda layer, _e, x: layer(layer(x, "a"), "b")) == _own("x0", "a_act")


def test_tail_of_several_steps_is_quantized_at_its_end(flow: Flow) -> None:
    def make(layer: Layer, e: Emit, x: relax.Expr) -> relax.Expr:
        y = layer(x, "a", act=None)
        gate = e(op.clip(e(op.add(y, relax.const(3.0)), "shifted"), 0, 6), "gate")
        return layer(e(op.multiply(y, gate), "swish"), "b")

    assert flow(make) == _own("x0", "swish")


def test_two_activations_of_one_tensor_are_tables_of_its_integers(flow: Flow) -> None:
    def make(layer: Layer, e: Emit, x: relax.Expr) -> relax.Expr:
        y = layer(x, "a", act=None)
        one, two = e(nn.relu(y), "one"), e(op.tanh(y), "two")
        return e(op.add(layer(one, "b"), layer(two, "c")), "sum")

    assert flow(make) == _own("x0", "a", "one", "two")


def test_residual_is_added_by_the_later_layer(flow: Flow) -> None:
    def make(layer: Layer, e: Emit, x: relax.Expr) -> relax.Expr:
        short, long = layer(x, "short", act=None), layer(layer(x, "in"), "long", act=None)
        return layer(e(nn.relu(e(op.add(long, short), "sum")), "out"), "next")

    # short is read as integers; long never leaves its kernel.
    assert flow(make) == _own("x0", "in_act", "short", "out")


def test_sum_of_two_tensors_that_others_read_is_one_of_integers(flow: Flow) -> None:
    def make(layer: Layer, e: Emit, x: relax.Expr) -> relax.Expr:
        a, b = layer(x, "a"), layer(x, "b")
        total = layer(e(op.add(a, b), "sum"), "next")
        return e(op.add(total, e(op.add(layer(a, "c"), layer(b, "d")))))

    assert flow(make) == _own("x0", "a_act", "b_act", "sum")


def test_gate_and_what_it_scales_are_both_integers(flow: Flow) -> None:
    def make(layer: Layer, e: Emit, x: relax.Expr) -> relax.Expr:
        y = layer(x, "a")
        pooled = e(op.mean(y, axis=[1, 2], keepdims=True), "pooled")
        gate = layer(layer(pooled, "down"), "up", act=op.sigmoid)
        return layer(e(op.multiply(y, gate), "scaled"), "next")

    assert flow(make) == _own("x0", "a_act", "pooled", "down_act", "up_act", "scaled")


@pytest.mark.parametrize(
    "move",
    [
        lambda y: nn.max_pool2d(y, (2, 2), strides=(2, 2), **HOW),
        lambda y: op.reshape(y, (1, 2, 8, 4)),
        lambda y: op.permute_dims(y, [0, 2, 1, 3]),
        lambda y: op.strided_slice(y, [1], [0], [2]),
        lambda y: op.image.resize2d(y, (8, 8), layout="NHWC", method="nearest_neighbor"),
    ],
)
def test_moves_work_on_the_integers_of_what_they_move(
    flow: Flow, move: Callable[[relax.Expr], relax.Expr]
) -> None:
    assert flow(lambda layer, e, x: layer(e(move(layer(x, "a")), "moved"), "b")) == _own(
        "x0", "a_act"
    )
    assert flow(lambda layer, e, x: layer(e(move(x), "moved"), "b")) == _own("x0")


def test_parts_of_a_split_are_moves(flow: Flow) -> None:
    def make(layer: Layer, e: Emit, x: relax.Expr) -> relax.Expr:
        parts = e(op.split(layer(x, "a", 8), 2, axis=3), "parts")
        one, two = e(parts[0], "one"), e(parts[1], "two")
        return e(op.add(layer(one, "b"), layer(two, "c")), "sum")

    assert flow(make) == _own("x0", "a_act")


def test_activation_behind_a_move_is_a_table(flow: Flow) -> None:
    def make(layer: Layer, e: Emit, x: relax.Expr) -> relax.Expr:
        moved = e(op.permute_dims(layer(x, "a"), [0, 2, 1, 3]), "moved")
        return layer(e(op.tanh(moved), "bent"), "b")

    assert flow(make) == _own("x0", "a_act", "bent")


@pytest.mark.parametrize(
    "blend",
    [
        lambda y: op.image.resize2d(y, (8, 8), layout="NHWC", method="linear"),
        lambda y: nn.softmax(y),
    ],
)
def test_operators_of_floats_read_floats_and_what_they_give_is_quantized(
    flow: Flow, blend: Callable[[relax.Expr], relax.Expr]
) -> None:
    assert flow(lambda layer, e, x: layer(e(blend(layer(x, "a")), "mixed"), "b")) == _own(
        "x0", "mixed"
    )


def test_combining_at_the_end_stays_in_floats(flow: Flow) -> None:
    def make(layer: Layer, e: Emit, x: relax.Expr) -> relax.Expr:
        pooled = e(op.mean(layer(x, "a"), axis=[1, 2], keepdims=True), "pooled")
        return e(op.sigmoid(pooled), "result")

    assert flow(make) == _own("x0")


def test_what_is_only_concatenated_takes_the_range_of_the_whole(flow: Flow) -> None:
    def make(layer: Layer, e: Emit, x: relax.Expr) -> relax.Expr:
        small = e(op.permute_dims(layer(x, "b"), [0, 2, 1, 3]), "moved")
        return layer(e(op.concat([layer(x, "a"), small], axis=3), "whole"), "next")

    assert flow(make) == {"x0": "x0", "a_act": "whole", "b_act": "whole", "whole": "whole"}


def test_what_others_read_too_keeps_its_own_range(flow: Flow) -> None:
    def make(layer: Layer, e: Emit, x: relax.Expr) -> relax.Expr:
        a, b = layer(x, "a"), layer(x, "b")
        whole = e(op.concat([a, b], axis=3), "whole")
        return e(op.add(layer(whole, "next"), layer(a, "other")), "sum")

    assert flow(make) == _own("x0", "a_act", "whole") | {"b_act": "whole"}


def test_nested_concatenations_share_the_outermost_range(flow: Flow) -> None:
    def make(layer: Layer, e: Emit, x: relax.Expr) -> relax.Expr:
        inner = e(op.concat([layer(x, "a"), layer(x, "b")], axis=3), "inner")
        return layer(e(op.concat([inner, layer(x, "c")], axis=3), "outer"), "next")

    names = ("a_act", "b_act", "c_act", "inner", "outer")
    assert flow(make) == {"x0": "x0"} | dict.fromkeys(names, "outer")


def test_layer_in_floats_reads_what_its_neighbours_read(flow: Flow) -> None:
    def make(layer: Layer, _e: Emit, x: relax.Expr) -> relax.Expr:
        return layer(layer(layer(layer(x, "a"), "b"), "c"), "d")

    # b reads a's result, which nothing wants in integers; c wants b's.
    assert flow(make, floats=("b_conv2d",)) == _own("x0", "b_act", "c_act")


def test_sum_with_something_of_floats_does_not_ask_for_integers(flow: Flow) -> None:
    def make(layer: Layer, e: Emit, x: relax.Expr) -> relax.Expr:
        a = layer(x, "a")
        soft = e(nn.softmax(layer(a, "b")), "soft")
        return layer(e(op.maximum(soft, layer(a, "c")), "mixed"), "next")

    assert flow(make) == _own("x0", "a_act", "mixed")


def test_operators_of_floats_read_each_other_in_floats(build: Build) -> None:
    weight = relax.const(np.ones((4, 4), "float32"))

    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        soft = bb.emit(nn.softmax(x), "soft")
        y = bb.emit(nn.relu(bb.emit(op.matmul(soft, weight), "one")), "act")
        y = bb.emit(op.add(bb.emit(op.matmul(y, weight), "two"), soft), "residual")
        return bb.emit(nn.softmax(y), "again")

    func = build(body, (3, 4))["main"]
    found = find_flow(Rebuild(func, relax.BlockBuilder()), find_layers(func))
    assert {var.name for var in found.ranges} == {"soft", "act"}
    assert {user.name: [var.name for var in read] for user, read in found.plain.items()} == {
        "residual": ["soft"]
    }


def test_normalised_input_is_quantized_once(flow: Flow) -> None:
    def make(layer: Layer, e: Emit, x: relax.Expr) -> relax.Expr:
        mean = relax.const(np.arange(4, dtype="float32"))
        return layer(e(op.divide(e(op.subtract(x, mean), "centred"), mean), "normal"), "a")

    assert flow(make) == _own("normal")
