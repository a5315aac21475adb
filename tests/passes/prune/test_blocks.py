"""Mirror of passes/prune/blocks.py."""

from __future__ import annotations

import numpy as np
import pytest

from tvmopt.passes.prune.blocks import (
    BlockShape,
    Importance,
    Problem,
    choose_mask,
    masked,
    refit,
)

EVERY: list[Importance] = ["magnitude", "wanda", "obs"]


def problem(
    outputs: int = 12, inputs: int = 24, run: int = 24, *, bias: bool = True, seed: int = 0
) -> Problem:
    """Return a layer whose inputs hang together, as trained ones do."""
    rng = np.random.default_rng(seed)
    k = inputs + bias
    rows = rng.standard_normal((4 * k, k)) @ rng.standard_normal((k, k))
    if bias:
        rows[:, -1] = 1
    hessian = rows.T @ rows / len(rows) + 0.1 * np.eye(k)
    weight = rng.standard_normal((outputs, k))
    return Problem(
        weight=weight,
        wanted=weight + 0.01 * rng.standard_normal(weight.shape),
        hessian=hessian,
        run=run,
        has_bias=bias,
    )


def objective(layer: Problem, weight: np.ndarray) -> float:
    change = weight - layer.wanted
    return float(np.sum(change @ layer.hessian * change))


def zero_share(layer: Problem, weight: np.ndarray) -> float:
    return float(np.mean(weight[:, : layer.inputs] == 0))


@pytest.mark.parametrize("importance", EVERY)
@pytest.mark.parametrize("shape", ["1x1", "2x1", "4x4", "16x4", "8x2"])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.75])
def test_as_many_blocks_go_as_was_asked(
    importance: Importance, shape: str, sparsity: float
) -> None:
    layer, blocks = problem(), BlockShape.parse(shape)
    assert blocks is not None
    kept = choose_mask(layer, blocks, sparsity, importance, rounds=3)
    assert kept.sum() == max(1, round((1 - sparsity) * kept.size))
    for weight in (refit(layer, blocks, kept), masked(layer, blocks, kept)):
        rows = np.repeat(kept, blocks.outputs, 0)[: len(weight)]
        gone = ~rows[:, layer.groups(blocks.inputs)]
        assert not weight[:, : layer.inputs][gone].any()


def test_refitting_nothing_gives_the_weights_wanted() -> None:
    layer, shape = problem(), BlockShape(outputs=4, inputs=4)
    kept = np.ones((3, 6), bool)
    # H is inverted and multiplied again: its condition bounds what rounding leaves.
    bound = 1e-14 * np.linalg.cond(layer.hessian) * np.abs(layer.wanted).max()
    assert np.abs(refit(layer, shape, kept) - layer.wanted).max() <= bound


@pytest.mark.parametrize("importance", EVERY)
def test_refitting_never_does_worse_than_masking(importance: Importance) -> None:
    layer, shape = problem(seed=3), BlockShape(outputs=4, inputs=2)
    kept = choose_mask(layer, shape, 0.6, importance, rounds=2)
    fitted, plain = refit(layer, shape, kept), masked(layer, shape, kept)
    assert objective(layer, fitted) <= objective(layer, plain)


def test_one_round_of_obs_takes_the_block_whose_loss_costs_least() -> None:
    layer, shape = problem(outputs=4, inputs=8, run=8, seed=5), BlockShape(outputs=4, inputs=2)
    kept = choose_mask(layer, shape, 0.25, "obs", rounds=1)
    (gone,) = np.flatnonzero(~kept[0])
    costs = []
    for group in range(4):
        trial = np.ones((1, 4), bool)
        trial[0, group] = False
        costs.append(objective(layer, refit(layer, shape, trial)))
    assert gone == int(np.argmin(costs))


def test_more_knowledge_keeps_the_outputs_better() -> None:
    # Not for every layer, but for these seeds together by a wide margin.
    shape, total = BlockShape(outputs=4, inputs=1), dict.fromkeys(EVERY, 0.0)
    for seed in range(5):
        layer = problem(outputs=8, inputs=32, run=32, seed=seed)
        for importance in EVERY:
            kept = choose_mask(layer, shape, 0.5, importance, rounds=8)
            total[importance] += objective(layer, refit(layer, shape, kept))
    assert total["obs"] < 0.9 * total["wanda"]
    assert total["obs"] < 0.9 * total["magnitude"]


def test_groups_do_not_cross_the_end_of_a_run() -> None:
    layer = problem(inputs=18, run=9)
    assert layer.groups(4).tolist() == [0] * 4 + [1] * 4 + [2] + [3] * 4 + [4] * 4 + [5]


@pytest.mark.parametrize("text", ["", "16", "16x", "0x4", "ax4", "16x4x2", "-1x4", "1.5x1"])
def test_what_is_no_shape_is_none(text: str) -> None:
    assert BlockShape.parse(text) is None
