"""Mirror of tvmopt/kernels/panel_steps.py."""

from __future__ import annotations

import numpy as np
import pytest

from tvmopt.kernels.bins import LIMIT
from tvmopt.kernels.panel_steps import PanelSteps, balanced, panel_steps

RUNS = np.array([0, 1000])


def sparse(seed: int, density: float, panels: int = 5) -> np.ndarray:
    """Return a dense packing (panels, 2, 12, 16, 4) of which so many blocks are not 0."""
    rng = np.random.default_rng(seed)
    values = np.clip(np.rint(rng.standard_normal((panels, 2, 12, 16, 4)) * 20), -64, 64)
    kept = rng.random((panels, 2, 12, 1, 1)) < density
    return (values * kept).astype(np.int8)


def restored(steps: PanelSteps, shape: tuple[int, ...]) -> np.ndarray:
    """Return the dense packing that the lists stand for."""
    dense = np.zeros(shape, np.int64)
    for (first, panel), (end, _) in zip(steps.panels, steps.panels[1:], strict=False):
        for step in range(first, end):
            line, place = divmod(int(steps.offsets[step]), 1000)
            dense[panel, line, place // shape[-1]] += steps.weights[step]
    return dense


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 1.0])
def test_lists_hold_every_block_once(depth: int, density: float) -> None:
    dense = sparse(3, density)
    steps = panel_steps(dense, RUNS, depth)
    assert np.array_equal(restored(steps, dense.shape), dense)
    assert steps.panels[-1, 0] == steps.count == len(steps.weights) > 0
    assert sorted(steps.panels[:-1, 1]) == list(range(5))


def test_chained_steps_keep_to_the_rule_of_16_bits() -> None:
    steps = panel_steps(sparse(4, 0.7), RUNS, 2)
    assert not (np.diff(steps.panels[:, 0]) % 2).any()
    chains = steps.weights.astype(int).reshape(-1, 2, 16, 2, 2)
    for sign in (1, -1):
        assert np.maximum(sign * chains, 0).sum((1, 4)).max() <= LIMIT


def test_chains_of_seldom_large_weights_have_few_empty_places() -> None:
    dense = sparse(5, 0.5)
    blocks = int(dense.any((3, 4)).sum())
    # One place of a panel may stay empty because its number of blocks is odd.
    assert panel_steps(dense, RUNS, 2).count <= blocks + 2 * len(dense)


def test_panels_are_filled_up_to_what_a_kernel_takes_at_once() -> None:
    dense = sparse(7, 0.3)
    steps = panel_steps(dense, RUNS, multiple=4)
    assert not (np.diff(steps.panels[:, 0]) % 4).any()
    assert steps.count <= dense.any((3, 4)).sum() + 3 * len(dense)
    assert np.array_equal(restored(steps, dense.shape), dense)


def test_far_offsets_have_32_bits() -> None:
    dense = sparse(6, 0.5)
    assert panel_steps(dense, RUNS).offsets.dtype == np.uint16
    assert panel_steps(dense, RUNS * 100).offsets.dtype == np.int32


def test_halves_of_the_panels_hold_halves_of_the_steps() -> None:
    # As they stand, the first half has 10 steps and the second 90.
    counts = np.array([1, 2, 3, 4, 20, 21, 24, 25])
    order = balanced(counts)
    assert sorted(order) == list(range(8))
    running = np.cumsum(counts[order])
    # A prefix is never further from its share than half of the largest panel.
    assert np.abs(running - counts.mean() * np.arange(1, 9)).max() <= counts.max() / 2
