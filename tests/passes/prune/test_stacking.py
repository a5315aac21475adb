"""Mirror of passes/prune/stacking.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.passes.prune.block_net import BlockNet, trained_of
from tvmopt.passes.prune.net_blocks import NetBlock, longest_stretch
from tvmopt.passes.prune.stacking import at_once, stacked

Build = Callable[..., tvm.IRModule]
Body = Callable[[relax.BlockBuilder, relax.Expr], relax.Expr]
op = relax.op
ROWS, WIDTH = 4, 6
BATCHES = 3


def _layer(builder: relax.BlockBuilder, x: relax.Expr, name: str) -> relax.Expr:
    weight = np.random.default_rng(1).standard_normal((WIDTH, WIDTH)).astype(np.float32)
    return builder.emit(op.matmul(x, relax.const(weight)), name)


def _block(build: Build, body: Body, *, samples: int = 1) -> NetBlock:
    """A layer, what ``body`` makes of it, and a layer behind that."""

    def net(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        first = _layer(builder, x, "first")
        return _layer(builder, builder.emit(body(builder, first), "between"), "last")

    found = longest_stretch(ir.unique_names(build(net, (samples, ROWS, WIDTH))))
    assert isinstance(found, NetBlock)
    assert [layer.name for layer in found.layers] == ["first", "last"]
    return found


def _attention(builder: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
    heads = builder.emit(op.reshape(x, (1, ROWS, 2, WIDTH // 2)))
    heads = builder.emit(op.permute_dims(heads, [0, 2, 1, 3]))
    turned = builder.emit(op.permute_dims(heads, [0, 1, 3, 2]))
    scores = builder.emit(op.nn.softmax(builder.emit(op.matmul(heads, turned)), axis=-1))
    mixed = builder.emit(op.permute_dims(builder.emit(op.matmul(scores, heads)), [0, 2, 1, 3]))
    joined = builder.emit(op.reshape(mixed, (1, ROWS, WIDTH)))
    return op.add(joined, x)


APART: dict[str, Body] = {
    "attention": _attention,
    "relu": lambda _, x: op.nn.relu(x),
    "bias": lambda _, x: op.add(x, relax.const(np.ones(WIDTH, np.float32))),
    "mean of rows": lambda _, x: op.mean(x, axis=[1], keepdims=True),
}
TOGETHER: dict[str, Body] = {
    "mean of samples": lambda _, x: op.mean(x, axis=[0], keepdims=True),
    "samples change places": lambda _, x: op.permute_dims(x, [1, 0, 2]),
    "softmax over samples": lambda _, x: op.nn.softmax(x, axis=0),
    "rows become samples": lambda _, x: op.reshape(x, (ROWS, WIDTH)),
}


@pytest.mark.parametrize("name", APART)
def test_several_batches_give_what_each_gives(name: str, build: Build) -> None:
    block = _block(build, APART[name])
    assert at_once(block) > 1
    net, rng = BlockNet(block, trained_of(block)), np.random.default_rng(2)
    values = [one.value for one in trained_of(block)]
    shape = (1, ROWS, WIDTH)
    batches = [
        ({block.inputs[0].name: rng.standard_normal(shape).astype(np.float32)}, ())
        for _ in range(BATCHES)
    ]
    made, pull = net.run(stacked(batches)[0], values)
    weights = rng.standard_normal(made[block.output].shape).astype(np.float32)
    slopes = [np.zeros_like(value) for value in values]
    for number, (inputs, _) in enumerate(batches):
        alone, pull_alone = net.run(inputs, values)
        # Float32 sums of at most 36 products in another order, through three layers of them.
        assert np.allclose(made[block.output][number], alone[block.output][0], 1e-4, 1e-4)
        for slope, part in zip(
            slopes, pull_alone({block.output: weights[number][None]}), strict=True
        ):
            slope += part
    for slope, found in zip(slopes, pull({block.output: weights}), strict=True):
        assert np.allclose(found, slope, 1e-4, 1e-4 * np.abs(slope).max())


@pytest.mark.parametrize("name", TOGETHER)
def test_what_mixes_samples_runs_batch_by_batch(name: str, build: Build) -> None:
    assert at_once(_block(build, TOGETHER[name])) == 1


def test_samples_of_a_larger_batch_are_stacked_too(build: Build) -> None:
    assert at_once(_block(build, APART["relu"], samples=2)) > 1
    own = relax.const(np.ones((2, 1, WIDTH), np.float32))  # one number for each sample of a batch
    assert at_once(_block(build, lambda _, x: op.add(x, own), samples=2)) == 1


def test_one_batch_is_not_copied() -> None:
    array = np.zeros((1, 2), np.float32)
    assert stacked([({"x": array}, (array,))])[0]["x"] is array
