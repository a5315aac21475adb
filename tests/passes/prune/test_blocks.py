"""Mirror of passes/prune/blocks.py."""

from __future__ import annotations

import numpy as np
import pytest

from tvmopt.passes.prune.blocks import (
    IMPORTANCES,
    Importance,
    choose_mask,
    masked,
    refit,
)
from tvmopt.passes.prune.problem import Problem
from tvmopt.passes.prune.structures import Structure


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


@pytest.mark.parametrize("importance", IMPORTANCES)
@pytest.mark.parametrize("shape", ["1x1", "2x1", "4x4", "16x4", "8x2"])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.75])
def test_as_many_blocks_go_as_was_asked(
    importance: Importance, shape: str, sparsity: float
) -> None:
    layer, blocks = problem(), Structure.parse(shape)
    assert blocks is not None
    kept = choose_mask(layer, blocks, sparsity, importance, rounds=3)
    assert kept.sum() == max(1, round((1 - sparsity) * kept.size))
    for weight in (refit(layer, blocks, kept), masked(layer, blocks, kept)):
        rows = np.repeat(kept, blocks.outputs, 0)[: len(weight)]
        gone = ~rows[:, layer.groups(blocks.inputs)]
        assert not weight[:, : layer.inputs][gone].any()


def test_refitting_nothing_gives_the_weights_wanted() -> None:
    layer, shape = problem(), Structure(outputs=4, inputs=4)
    kept = np.ones((3, 6), bool)
    # H is inverted and multiplied again: its condition bounds what rounding leaves.
    bound = 1e-14 * np.linalg.cond(layer.hessian) * np.abs(layer.wanted).max()
    assert np.abs(refit(layer, shape, kept) - layer.wanted).max() <= bound


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_refitting_never_does_worse_than_masking(importance: Importance) -> None:
    layer, shape = problem(seed=3), Structure(outputs=4, inputs=2)
    kept = choose_mask(layer, shape, 0.6, importance, rounds=2)
    fitted, plain = refit(layer, shape, kept), masked(layer, shape, kept)
    assert objective(layer, fitted) <= objective(layer, plain)


def test_one_round_of_obs_takes_the_block_whose_loss_costs_least() -> None:
    layer, shape = problem(outputs=4, inputs=8, run=8, seed=5), Structure(outputs=4, inputs=2)
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
    shape, total = Structure(outputs=4, inputs=1), dict.fromkeys(IMPORTANCES, 0.0)
    for seed in range(5):
        layer = problem(outputs=8, inputs=32, run=32, seed=seed)
        for importance in IMPORTANCES:
            kept = choose_mask(layer, shape, 0.5, importance, rounds=8)
            total[importance] += objective(layer, refit(layer, shape, kept))
    for search in ("obs", "admm"):
        assert total[search] < 0.9 * total["wanda"]
        assert total[search] < 0.9 * total["magnitude"]


def test_groups_do_not_cross_the_end_of_a_run() -> None:
    layer = problem(inputs=18, run=9)
    assert layer.groups(4).tolist() == [0] * 4 + [1] * 4 + [2] + [3] * 4 + [4] * 4 + [5]


@pytest.mark.parametrize("importance", IMPORTANCES)
@pytest.mark.parametrize(("name", "run"), [("2:4", 24), ("4:8", 24), ("1:4", 9), ("2:4", 6)])
def test_so_many_of_neighbours_are_kept(importance: Importance, name: str, run: int) -> None:
    layer, structure = (
        problem(outputs=6, inputs=36 if run == 9 else 24, run=run),
        Structure.parse(name),
    )
    assert structure is not None
    assert structure.most is not None
    assert structure.of is not None
    kept = choose_mask(layer, structure, 0.5, importance, rounds=4)
    for start in range(0, layer.inputs, run):
        for first in range(start, start + run, structure.of):
            window = kept[:, first : min(first + structure.of, start + run)]
            assert (window.sum(axis=1) == min(structure.most, window.shape[1])).all()
    weight = refit(layer, structure, kept)
    assert not weight[:, : layer.inputs][~kept].any()


@pytest.mark.parametrize(("name", "sparsity"), [("1x1", 0.3), ("1x1", 0.8), ("4x2", 0.5)])
def test_refitting_is_the_least_squares_of_numpy(name: str, sparsity: float) -> None:
    layer, structure = problem(seed=7), Structure.parse(name)
    assert structure is not None
    kept = choose_mask(layer, structure, sparsity, "wanda", rounds=1)
    fitted = refit(layer, structure, kept)
    # |R (w - t)^T|^2 is the objective where R^T R = H.
    root = np.linalg.cholesky(layer.hessian).T
    rows = np.repeat(kept, structure.outputs, 0)[:, layer.groups(structure.inputs)]
    for row, (stays, wanted) in enumerate(zip(rows, layer.wanted, strict=True)):
        places = np.append(np.flatnonzero(stays), layer.inputs)
        best = np.linalg.lstsq(root[:, places], root @ wanted, rcond=None)[0]
        # lstsq loses by the root's condition, the normal equations by its square.
        bound = 1e-14 * np.linalg.cond(layer.hessian) * np.abs(wanted).max()
        assert np.abs(fitted[row, places] - best).max() <= bound


def test_obs_one_weight_a_round_is_the_optimal_brain_surgeon() -> None:
    layer = problem(outputs=1, inputs=10, run=10, seed=9)
    structure = Structure(outputs=1, inputs=1)
    weight, inverse = layer.wanted[0].copy(), np.linalg.inv(layer.hessian)
    left = list(range(10))
    for _ in range(6):  # Hassibi and Stork, equations 5 and 6, the inverse without what is gone
        worst = min(left, key=lambda i: weight[i] ** 2 / inverse[i, i])
        left.remove(worst)
        weight -= weight[worst] / inverse[worst, worst] * inverse[worst]
        inverse -= np.outer(inverse[worst], inverse[worst]) / inverse[worst, worst]
    # The geometric schedule reaches 4 of 10 in 40 steps of at most one weight.
    kept = choose_mask(layer, structure, 0.6, "obs", rounds=40)
    assert np.flatnonzero(kept[0]).tolist() == left
    bound = 1e-13 * np.linalg.cond(layer.hessian) * np.abs(weight).max()
    assert np.abs(refit(layer, structure, kept)[0] - weight).max() <= bound


def test_taylor_counts_inputs_that_cancel_each_other_together() -> None:
    hessian = np.eye(4)
    hessian[0, 1] = hessian[1, 0] = 0.999
    weight = np.array([[1.0, -1.0, 0.3, 0.3]])
    layer = Problem(weight=weight, wanted=weight, hessian=hessian, run=4, has_bias=False)
    shape = Structure(outputs=1, inputs=2)
    assert choose_mask(layer, shape, 0.5, "taylor", 1).tolist() == [[False, True]]
    assert choose_mask(layer, shape, 0.5, "wanda", 1).tolist() == [[True, False]]


def test_sparse_gpt_of_inputs_that_do_not_hang_together_is_wanda() -> None:
    layer, shape = problem(seed=6), Structure(outputs=4, inputs=2)
    alone = Problem(
        weight=layer.wanted,
        wanted=layer.wanted,
        hessian=np.diag(np.diag(layer.hessian)),
        run=layer.run,
        has_bias=True,
    )
    masks = [choose_mask(alone, shape, 0.5, name, 1) for name in ("sparsegpt", "wanda")]
    assert np.array_equal(*masks)


def test_taylor_of_single_weights_is_wanda() -> None:
    layer, shape = problem(seed=4), Structure(outputs=4, inputs=1)
    masks = [choose_mask(layer, shape, 0.5, name, 1) for name in ("taylor", "wanda")]
    assert np.array_equal(*masks)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("importance", IMPORTANCES)
def test_a_panel_may_lose_every_block(importance: Importance, bias: bool) -> None:
    layer = problem(outputs=8, inputs=8, run=8, bias=bias, seed=2)
    layer.weight[:4] *= 1e-6
    layer.wanted[:4] = layer.weight[:4]
    shape = Structure(outputs=4, inputs=1)
    kept = choose_mask(layer, shape, 0.5, importance, rounds=4)
    assert not kept[0].any()
    assert kept[1].all()
    assert not refit(layer, shape, kept)[:4, :8].any()
