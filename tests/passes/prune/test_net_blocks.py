"""Mirror of passes/prune/net_blocks.py: where a net is cut."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt.passes.prune.net_blocks import NetBlock, net_blocks, order_of

Build = Callable[..., tvm.IRModule]
WIDTH = 6


def _matrix(seed: int) -> relax.Expr:
    values = np.random.default_rng(seed).standard_normal((WIDTH, WIDTH))
    return relax.const(values.astype(np.float32))


def _net(build: Build, *, odd: bool = False) -> tvm.IRModule:
    """A layer, a residual block of two beside a mask, a layer, a mean over rows."""

    def body(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        mask = builder.emit(relax.op.tanh(x), "mask")
        first = builder.emit(relax.op.matmul(x, _matrix(0)), "first")
        act = builder.emit(relax.op.nn.relu(first), "act")
        one = builder.emit(relax.op.matmul(act, _matrix(1)), "one")
        masked = builder.emit(relax.op.multiply(one, mask), "masked")
        between = builder.emit(relax.op.cumsum(masked, axis=0), "between") if odd else masked
        two = builder.emit(relax.op.matmul(between, _matrix(2)), "two")
        total = builder.emit(relax.op.add(two, act), "total")
        out = builder.emit(relax.op.nn.relu(total), "out")
        last = builder.emit(relax.op.matmul(out, _matrix(3)), "last")
        return builder.emit(relax.op.mean(last, axis=[0]), "pooled")

    return build(body, (4, WIDTH))


def _blocks(mod: tvm.IRModule) -> list[NetBlock]:
    return [block for block in net_blocks(mod) if isinstance(block, NetBlock)]


def test_blocks_lie_between_cuts(build: Build) -> None:
    found = _blocks(_net(build))
    assert [[layer.name for layer in block.layers] for block in found] == [
        ["first"],
        ["one", "two"],
        ["last"],
    ]
    # Up to what the next layer reads; the mean, of fewer numbers, tells less and is left out.
    assert [block.output.name for block in found] == ["act", "out", "last"]
    # The mask depends on no layer, and may pass beside a cut.
    assert [[var.name for var in block.inputs] for block in found] == [
        ["x0"],
        ["act", "mask"],
        ["out"],
    ]


def test_what_cannot_be_differentiated_is_named(build: Build) -> None:
    found = list(net_blocks(_net(build, odd=True)))
    left = [(one[0].name, one[1]) for one in found if not isinstance(one, NetBlock)]
    reason = "its block has relax.cumsum, whose derivative is not known"
    assert left == [("one", reason), ("two", reason)]
    assert len(_blocks(_net(build, odd=True))) == 2


def test_the_order_of_channels_is_that_of_the_layers_before(build: Build) -> None:
    mod = _net(build)
    outputs = [block.output for block in _blocks(mod)]
    order = np.array([2, 0, 1, 3, 4, 5])
    assert order_of(outputs[0], mod, {}) is None
    assert np.array_equal(order_of(outputs[0], mod, {"first": order}), order)
    both = {"first": order, "two": order}
    assert np.array_equal(order_of(outputs[1], mod, both), order)
    # A sum of what was reordered and what was not has no order.
    assert isinstance(order_of(outputs[1], mod, {"two": order}), str)
    assert order_of(outputs[2], mod, both) is None


@pytest.mark.parametrize("name", ["first", "two"])
def test_a_layer_is_in_one_block(build: Build, name: str) -> None:
    inside = [name in [layer.name for layer in block.layers] for block in _blocks(_net(build))]
    assert sum(inside) == 1
