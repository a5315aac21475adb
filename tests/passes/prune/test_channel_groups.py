"""Mirror of channel_groups.py, channel_rules.py, channel_labels.py and take_channels.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.errors import OptionError
from tvmopt.passes.canonicalize.rebuild import rebuild_main
from tvmopt.passes.prune.channel_groups import ChannelGroup, Channels
from tvmopt.passes.prune.take_channels import take_channels

Build = Callable[..., tvm.IRModule]
Run = Callable[..., list[np.ndarray]]
Convolve = Callable[..., relax.Expr]
Counts = Callable[[tvm.IRModule], Counter[str]]
LAYOUTS = {"data_layout": "NHWC", "kernel_layout": "OHWI", "out_layout": "NHWC"}
IMAGE, TOKENS = (1, 6, 6, 3), (1, 5, 12)

# The same sums of up to 432 terms in another order differ by at most 432 * 2**-24 of the sum of the
# terms' sizes. Weights are scaled so that this is a few times the largest output; six layers follow
# each other.
NEAR = 6 * 432 * 2.0**-24 * 4


def _const(seed: int, *shape: int) -> relax.Expr:
    scale = np.sqrt(shape[0] if len(shape) == 2 else max(1, np.prod(shape[1:])))
    values = np.random.default_rng(seed).standard_normal(shape) / scale
    return relax.const(values.astype(np.float32))


def _residual(convolve: Convolve) -> Callable[..., relax.Expr]:
    """A residual sum, a depthwise layer, a squeeze and excitation, a flatten and two products."""

    def body(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        stem = convolve(builder, x, "stem", 16)
        wide = convolve(builder, stem, "expand", 24)
        deep = convolve(builder, wide, "deep", 24, depthwise=True)
        mean = builder.emit(relax.op.mean(deep, axis=[1, 2], keepdims=True), "mean")
        small = builder.emit(relax.op.nn.conv2d(mean, _const(1, 8, 1, 1, 24), **LAYOUTS), "small")
        gate = builder.emit(relax.op.nn.relu(small), "gate")
        back = builder.emit(relax.op.nn.conv2d(gate, _const(2, 24, 1, 1, 8), **LAYOUTS), "back")
        excited = builder.emit(relax.op.multiply(deep, relax.op.sigmoid(back)), "excited")
        project = convolve(builder, excited, "project", 16, act=None)
        total = builder.emit(relax.op.add(project, stem), "total")
        shifted = builder.emit(relax.op.multiply(total, _const(3, 16)), "shifted")
        pooled = builder.emit(
            relax.op.nn.max_pool2d(shifted, (2, 2), (2, 2), layout="NHWC"), "pooled"
        )
        flat = builder.emit(relax.op.reshape(pooled, (1, 144)), "flat")
        hidden = builder.emit(relax.op.matmul(flat, _const(4, 144, 20)), "fc1")
        act = builder.emit(relax.op.nn.gelu(hidden), "act")
        return builder.emit(relax.op.matmul(act, _const(5, 20, 5)), "fc2")

    return body


def _concatenated(convolve: Convolve) -> Callable[..., relax.Expr]:
    """Two branches side by side, a grouped convolution behind them, and halves of what it gives."""

    def body(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        left = convolve(builder, x, "left", 8)
        right = convolve(builder, x, "right", 16)
        both = builder.emit(relax.op.concat([left, right], axis=3), "both")
        wide = convolve(builder, both, "wide", 12)
        grouped = relax.op.nn.conv2d(wide, _const(1, 24, 3, 3, 3), padding=1, groups=4, **LAYOUTS)
        mixed = convolve(builder, builder.emit(grouped, "grouped"), "mixed", 10)
        halves = builder.emit(relax.op.split(mixed, [4], axis=3), "halves")
        first = builder.emit(halves[0], "first")
        second = convolve(builder, builder.emit(halves[1], "second"), "last", 4, act=None)
        total = builder.emit(relax.op.add(first, second), "total")
        return convolve(builder, total, "end", 3, act=None)

    return body


def _attention(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
    """Attention of three heads of four places between layer norms, and a hidden layer."""

    def linear(data: relax.Expr, name: str, seed: int, *shape: int) -> relax.Expr:
        product = builder.emit(relax.op.matmul(data, _const(seed, *shape)), name)
        return builder.emit(relax.op.add(product, _const(seed + 50, shape[1])), f"{name}_sum")

    def heads(name: str, seed: int, order: list[int]) -> relax.Expr:
        cut = builder.emit(relax.op.reshape(linear(stream, name, seed, 12, 12), (1, 5, 3, 4)))
        return builder.emit(relax.op.permute_dims(cut, order))

    def norm(data: relax.Expr, name: str, seed: int) -> relax.Expr:
        scale, shift = _const(seed, 12), _const(seed + 1, 12)
        return builder.emit(relax.op.nn.layer_norm(data, scale, shift, axes=[-1]), name)

    stream = norm(linear(x, "embed", 1, 12, 12), "norm1", 2)
    scores = relax.op.matmul(heads("q", 4, [0, 2, 1, 3]), heads("k", 5, [0, 2, 3, 1]))
    shares = builder.emit(relax.op.nn.softmax(builder.emit(scores, "scores"), axis=-1), "shares")
    seen = builder.emit(relax.op.matmul(shares, heads("v", 6, [0, 2, 1, 3])), "seen")
    back = builder.emit(relax.op.permute_dims(seen, [0, 2, 1, 3]))
    flat = builder.emit(relax.op.reshape(back, (1, 5, 12)))
    added = builder.emit(relax.op.add(linear(flat, "o", 7, 12, 12), stream), "added")
    second = norm(added, "norm2", 8)
    act = builder.emit(relax.op.nn.gelu(linear(second, "up", 10, 12, 20)), "act")
    total = builder.emit(relax.op.add(linear(act, "down", 11, 20, 12), second), "total")
    return linear(total, "head", 12, 12, 4)


@pytest.fixture(scope="module", params=["residual", "concatenated", "attention"])
def net(request: pytest.FixtureRequest, build: Build, convolve: Convolve) -> tvm.IRModule:
    return _net(request.param, build, convolve)


def _net(name: str, build: Build, convolve: Convolve) -> tvm.IRModule:
    if name == "attention":
        return ir.unique_names(build(_attention, TOKENS))
    body = _residual if name == "residual" else _concatenated
    return ir.unique_names(build(body(convolve), IMAGE))


@pytest.fixture(scope="module")
def x(net: tvm.IRModule) -> np.ndarray:
    shape = ir.static_shape(net["main"].params[0])
    return np.random.default_rng(7).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def wanted(net: tvm.IRModule, x: np.ndarray, run: Run) -> np.ndarray:
    return run(net, x)[0]


def _assert_near(got: np.ndarray, want: np.ndarray) -> None:
    assert np.abs(want).max() > 0.1
    assert np.abs(got - want).max() <= NEAR * np.abs(want).max()


def _silenced(mod: tvm.IRModule, gone: dict[ChannelGroup, np.ndarray]) -> tvm.IRModule:
    """Return the module with the weights that read some units at 0; in products, one side."""
    zeros: dict[relax.Var, list[tuple[int, int, np.ndarray]]] = {}
    for group, units in gone.items():
        one_side = (*group.producers[:1], *group.constants[:1])
        for port in group.consumers or one_side:
            places = port.positions[units].reshape(-1)
            zeros.setdefault(port.var, []).append((port.operand, port.axis, places))

    def rule(var: relax.Var, value: relax.Expr) -> relax.Expr:
        if var not in zeros:
            return value
        args = list(value.args)
        for operand, axis, places in zeros[var]:
            weight = ir.constant(args[operand]).copy()
            np.moveaxis(weight, axis, 0)[places] = 0.0
            args[operand] = relax.const(weight)
        return ir.with_changes(value, args)

    return rebuild_main(mod, lambda _graph: rule)


def _numbers(mod: tvm.IRModule) -> int:
    found = [ir.constant(arg) for call in ir.calls(mod) for arg in call.args]
    return sum(values.size for values in found if values is not None)


def test_channels_that_change_places_change_no_output(
    net: tvm.IRModule, x: np.ndarray, wanted: np.ndarray, run: Run
) -> None:
    channels, rng = Channels(net), np.random.default_rng(1)
    takes = {g.name: rng.permutation(g.size) for g in channels.groups if not g.fixed}
    assert len(takes) >= 4
    moved = take_channels(channels, takes)
    _assert_near(run(moved, x)[0], wanted)
    both = zip(ir.bindings(net["main"]), ir.bindings(moved["main"]), strict=True)
    changed = 0
    for (var, old), (other, new) in both:
        assert var.name == other.name
        if ir.is_call_to(old, "relax.matmul", "relax.nn.conv2d") and ir.is_constant(old.args[1]):
            changed += not np.array_equal(ir.constant(old.args[1]), ir.constant(new.args[1]))
    assert changed >= 6


def test_without_some_channels_it_is_as_if_nothing_read_them(
    net: tvm.IRModule, x: np.ndarray, wanted: np.ndarray, run: Run
) -> None:
    channels, rng = Channels(net), np.random.default_rng(2)
    takes, gone = {}, {}
    for group in channels.groups:
        whole_groups = group.through and not group.producers  # of a grouped convolution
        if not (group.removable or whole_groups):
            order = rng.permutation(group.size)
            count = group.size // 4 + 1
            takes[group.name], gone[group] = order[count:], order[:count]
    assert len(takes) >= 4
    smaller = take_channels(channels, takes)
    got = run(smaller, x)[0]
    _assert_near(got, run(_silenced(net, gone), x)[0])
    assert np.abs(got - wanted).max() > 0.01 * np.abs(wanted).max()
    assert _numbers(smaller) < 0.8 * _numbers(net)


def test_places_within_heads_may_differ_for_each_head(
    build: Build, convolve: Convolve, run: Run
) -> None:
    net = _net("attention", build, convolve)
    channels, rng = Channels(net), np.random.default_rng(3)
    within = [group for group in channels.groups if group.within]
    assert [(group.size, group.within) for group in within] == [(4, "q/3"), (4, "q/3")]
    takes = {g.name: np.array([rng.permutation(4) for _ in range(3)]) for g in within}
    takes["q/3"] = np.array([2, 0, 1])
    x = np.random.default_rng(7).standard_normal(TOKENS).astype(np.float32)
    _assert_near(run(take_channels(channels, takes), x)[0], run(net, x)[0])
    # Two places of each head: those of the values by what then reads nothing of the others.
    value = channels.group("v/4")
    kept = np.array([[0, 2], [3, 1], [1, 2]])
    smaller = take_channels(channels, {"v/4": kept, "q/3": np.array([2, 0])})
    weights = {
        var.name: ir.constant(call.args[1])
        for var, call in ir.bindings(smaller["main"])
        if ir.is_call_to(call, "relax.matmul") and ir.is_constant(call.args[1])
    }
    whole = {var.name: call for var, call in ir.bindings(net["main"])}
    heads = ir.constant(whole["v"].args[1]).reshape(12, 3, 4)
    assert np.array_equal(weights["v"], np.hstack([heads[:, 2][:, [1, 2]], heads[:, 0][:, [0, 2]]]))
    assert (weights["q"].shape, weights["o"].shape) == ((12, 8), (4, 12))
    assert value.consumers[0].name == "o"


def test_whole_groups_of_a_grouped_convolution_can_go(
    build: Build, convolve: Convolve, run: Run
) -> None:
    net = _net("concatenated", build, convolve)
    channels = Channels(net)
    groups = next(g for g in channels.groups if [p.name for p in g.through] == ["grouped"])
    assert groups.size == 4
    smaller = take_channels(channels, {groups.name: np.array([3, 1])})
    assert 2 in map(_groups, ir.calls(smaller))
    x = np.random.default_rng(7).standard_normal(IMAGE).astype(np.float32)
    gone = groups.consumers[0].positions[[0, 2]].reshape(-1)
    assert gone.tolist() == [*range(6), *range(12, 18)]
    _assert_near(run(smaller, x)[0], run(_silenced(net, {groups: np.array([0, 2])}), x)[0])


def _groups(call: relax.Call) -> int:
    return int(call.attrs.groups) if ir.is_call_to(call, "relax.nn.conv2d") else 0


def test_groups_say_what_produces_and_what_reads_them(build: Build, convolve: Convolve) -> None:
    groups = {g.name: g for g in Channels(_net("residual", build, convolve)).groups}
    names = {
        name: tuple(
            [port.name for port in ports] for ports in (g.producers, g.consumers, g.through)
        )
        for name, g in groups.items()
    }
    assert names == {
        "stem_conv2d/16": (["stem_conv2d", "project_conv2d"], ["expand_conv2d", "fc1"], []),
        "expand_conv2d/24": (
            ["expand_conv2d", "back"],
            ["small", "project_conv2d"],
            ["deep_conv2d"],
        ),
        "small/8": (["small"], ["back"], []),
        "fc1/20": (["fc1"], ["fc2"], []),
        "fc2/5": (["fc2"], [], []),
    }
    stem = groups["stem_conv2d/16"]
    flat = next(port for port in stem.consumers if port.name == "fc1")
    assert np.array_equal(flat.positions, np.arange(16)[:, None] + 16 * np.arange(9))
    assert groups["fc2/5"].fixed == "it is an output of the net"


def test_branches_behind_a_concat_are_groups_of_their_own(build: Build, convolve: Convolve) -> None:
    groups = Channels(_net("concatenated", build, convolve)).groups
    left, right = groups[:2]
    assert (left.name, right.name) == ("left_conv2d/8", "right_conv2d/16")
    assert right.consumers[0].positions[:, 0].tolist() == list(range(8, 24))


def test_what_is_normalized_may_move_but_not_go(build: Build, convolve: Convolve) -> None:
    channels = Channels(_net("attention", build, convolve))
    stream = channels.group("embed/12")
    assert (stream.kept, stream.fixed) == ("norm1 normalizes over it", "")
    with pytest.raises(OptionError, match="must not lose channels: norm1 normalizes over it"):
        take_channels(channels, {stream.name: np.arange(6)})


def test_what_no_rule_knows_stays_as_it_is(build: Build, convolve: Convolve) -> None:
    def body(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        y = convolve(builder, x, "first", 8)
        y = builder.emit(relax.op.cumsum(y, axis=3), "sums")
        return convolve(builder, y, "second", 3)

    group = Channels(build(body, IMAGE)).groups[0]
    assert group.fixed == "sums (cumsum) reads it"


@pytest.mark.parametrize(
    ("name", "indices", "message"),
    [
        ("embed/12", np.array([0, 0]), "must be taken by different numbers from 0 to 11, got"),
        ("embed/12", np.array([12]), "must be taken by different numbers from 0 to 11, got"),
        ("up/20", np.array([], np.int64), "must be taken by different numbers from 0 to 19, got"),
        ("up/20", np.array([[1, 0]]), "stands within no other, and must be taken by one list"),
        ("v/4", np.array([[1, 0]]), "must be taken by 3 lists, got 1"),
        ("head/4", np.array([1, 0, 2, 3]), "must stay as it is: it is an output of the net"),
    ],
)
def test_what_cannot_be_taken_is_refused(
    build: Build, convolve: Convolve, name: str, indices: np.ndarray, message: str
) -> None:
    channels = Channels(_net("attention", build, convolve))
    with pytest.raises(OptionError, match=message):
        take_channels(channels, {name: indices})
