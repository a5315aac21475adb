"""Mirror of passes/prune/order_channels.py and layer_order.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.passes.canonicalize.rebuild import rebuild_main
from tvmopt.passes.prune.float_layers import FloatLayer, float_layers
from tvmopt.passes.prune.order_channels import Ordered, order_channels
from tvmopt.passes.prune.structures import Goal

Build = Callable[..., tvm.IRModule]
Run = Callable[..., list[np.ndarray]]
Convolve = Callable[..., relax.Expr]
SIZE, CHANNELS = 6, 16


@pytest.fixture(scope="module")
def net(build: Build, convolve: Convolve) -> tvm.IRModule:
    """A stem, a residual block with a depthwise layer inside, a branch that joins, and a head."""

    def body(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        stem = convolve(builder, x, "stem", CHANNELS)
        inner = convolve(builder, stem, "wide", 32)
        inner = convolve(builder, inner, "deep", 32, depthwise=True)
        narrow = convolve(builder, inner, "narrow", CHANNELS, act=None)
        total = builder.emit(relax.op.add(narrow, stem), "total")
        head = convolve(builder, builder.emit(relax.op.nn.relu(total), "rectified"), "head", 8)
        return builder.emit(head)

    return build(body, (1, SIZE, SIZE, 3))


def _layers(mod: tvm.IRModule) -> list[FloatLayer]:
    return [which for _, which in float_layers(mod, mod) if isinstance(which, FloatLayer)]


def _order(mod: tvm.IRModule, structure: str, sparsity: float = 0.5) -> Ordered:
    layers = _layers(mod)
    goal = Goal(structure=structure, sparsity=sparsity)
    return order_channels(mod, layers, {layer.name: goal for layer in layers})


def _weights(mod: tvm.IRModule) -> dict[str, np.ndarray]:
    return {
        var.name: ir.float_constant(value.args[1])
        for var, value in ir.bindings(mod["main"])
        if ir.is_call_to(value, "relax.nn.conv2d")
    }


@pytest.mark.parametrize("structure", ["4x1", "8x4", "4x4", "2:4"])
def test_the_net_computes_the_same(net: tvm.IRModule, run: Run, structure: str) -> None:
    ordered = _order(net, structure)
    x = np.random.default_rng(3).normal(size=(1, SIZE, SIZE, 3)).astype("float32")
    before, after = run(net, x)[0], run(ordered.mod, x)[0]
    # Sums of at most 9 * 32 terms in another order, in five layers one behind the other: each adds
    # an error of at most 288 roundings of the largest sum of magnitudes, here below 8 times the
    # largest output.
    assert np.abs(after - before).max() <= 5 * 288 * 2.0**-24 * 8 * np.abs(before).max()
    assert ordered.outputs


@pytest.mark.parametrize("structure", ["4x1", "8x4"])
def test_the_largest_blocks_hold_more(net: tvm.IRModule, structure: str) -> None:
    ordered = _order(net, structure)
    sizes = {layer.name: layer.layer.weight.size for layer in _layers(net)}
    totals = [sum(sizes[name] * gain[i] for name, gain in ordered.gains.items()) for i in (0, 1)]
    assert totals[1] > totals[0]


def test_outputs_name_where_each_output_was(net: tvm.IRModule) -> None:
    ordered = _order(net, "4x1")
    old, new = _weights(net), _weights(ordered.mod)
    for name, order in ordered.outputs.items():
        assert sorted(order) == list(range(len(order)))
        # Inputs may have moved as well: an output is known by the values that it has.
        a, b = (np.sort(w.reshape(len(w), -1), axis=1) for w in (old[name][order], new[name]))
        assert np.array_equal(a, b)
    assert {"wide_conv2d", "deep_conv2d"} <= set(ordered.outputs)
    assert np.array_equal(ordered.outputs["wide_conv2d"], ordered.outputs["deep_conv2d"])


def test_channels_of_a_sum_move_together(net: tvm.IRModule) -> None:
    outputs = _order(net, "4x1").outputs
    assert np.array_equal(outputs["stem_conv2d"], outputs["narrow_conv2d"])


def test_what_the_net_shows_keeps_its_order(net: tvm.IRModule) -> None:
    assert "head_conv2d" not in _order(net, "4x1").outputs


def test_like_rows_come_together(build: Build, convolve: Convolve) -> None:
    def body(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        return convolve(builder, convolve(builder, x, "one", 8), "two", 4)

    mod = build(body, (1, 4, 4, 8))
    weight = np.full((8, 3, 3, 8), 0.01, np.float32)
    weight[::2, ..., :4] = weight[1::2, ..., 4:] = 1.0  # two kinds of rows, one after the other

    def rule(var: relax.Var, value: relax.Expr) -> relax.Expr:
        new = relax.const(weight)
        return ir.with_changes(value, [value.args[0], new]) if var.name == "one_conv2d" else value

    ordered = _order(rebuild_main(mod, lambda _: rule), "4x1")
    parity = ordered.outputs["one_conv2d"] % 2
    assert set(parity[:4]) != set(parity[4:])
    assert ordered.gains["one_conv2d"][1] > 0.99


def test_too_many_channels_to_assign_are_sorted(
    net: tvm.IRModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = _order(net, "8x1")
    monkeypatch.setattr("tvmopt.passes.prune.order_channels._MOST", 4)
    quick = _order(net, "8x1")
    kept = [gains["wide_conv2d"] for gains in (quick.gains, exact.gains)]
    assert kept[0][0] <= kept[0][1] <= kept[1][1]


@pytest.mark.parametrize("structure", ["1x1", "unstructured"])
def test_single_weights_need_no_order(net: tvm.IRModule, structure: str) -> None:
    ordered = _order(net, structure)
    assert ordered.mod.same_as(net)
    assert not ordered.outputs


def test_heads_are_ordered_within_each(build: Build, run: Run) -> None:
    heads, width, tokens, size = 2, 8, 4, 16
    rng = np.random.default_rng(11)

    def linear(builder: relax.BlockBuilder, x: relax.Expr, name: str) -> relax.Expr:
        weight = relax.const((rng.normal(size=(size, size)) / 4).astype("float32"))
        y = builder.emit(relax.op.matmul(x, weight), f"{name}_matmul")
        bias = relax.const((rng.normal(size=size) / 4).astype("float32"))
        return builder.emit(relax.op.add(y, bias), name)

    def split(builder: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        x = builder.emit(relax.op.reshape(x, (1, tokens, heads, width)))
        return builder.emit(relax.op.permute_dims(x, [0, 2, 1, 3]))

    def body(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        q, k, v = (split(builder, linear(builder, x, name)) for name in "qkv")
        keys = builder.emit(relax.op.permute_dims(k, [0, 1, 3, 2]))
        scores = builder.emit(relax.op.nn.softmax(builder.emit(relax.op.matmul(q, keys))))
        mixed = builder.emit(relax.op.matmul(scores, v))
        mixed = builder.emit(relax.op.permute_dims(mixed, [0, 2, 1, 3]))
        mixed = builder.emit(relax.op.reshape(mixed, (1, tokens, size)))
        return linear(builder, mixed, "out")

    mod = ir.unique_names(build(body, (1, tokens, size)))
    ordered = _order(mod, "4x1")
    x = rng.normal(size=(1, tokens, size)).astype("float32")
    before, after = run(mod, x)[0], run(ordered.mod, x)[0]
    # As above: sums of 16 terms, four layers and a softmax.
    assert np.abs(after - before).max() <= 5 * 16 * 2.0**-24 * 8 * np.abs(before).max()
    for name in ("q_matmul", "k_matmul", "v_matmul"):
        order = ordered.outputs[name]
        assert (order // width == np.arange(size) // width).all()
        assert not np.array_equal(order, np.arange(size))
    assert np.array_equal(ordered.outputs["q_matmul"], ordered.outputs["k_matmul"])
