"""Mirror of tvmopt/kernels/bins.py."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvmopt.kernels.bins import LIMIT, fill, take_excess


def lane_sums(chains: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums of one sign in each lane of (..., depth, width, 4), positive and negative."""
    pairs = chains.reshape(*chains.shape[:-1], 2, 2).astype(int)
    positive, negative = np.maximum(pairs, 0).sum(-1), np.maximum(-pairs, 0).sum(-1)
    return positive.sum(-3), negative.sum(-3)


def keeps_to_the_rule(chains: np.ndarray) -> bool:
    return all(total.size == 0 or total.max() <= LIMIT for total in lane_sums(chains))


def test_the_rule_is_that_of_16_bits() -> None:
    # The greatest activation by as many weights of one sign as fit, and one more does not.
    assert 255 * LIMIT <= 2**15 - 1 < 255 * (LIMIT + 1)


@settings(derandomize=True, max_examples=30, deadline=None)
@given(
    panels=st.integers(1, 3),
    chains=st.integers(1, 20),
    depth=st.sampled_from([2, 3]),
    spread=st.sampled_from([5.0, 20.0, 40.0, 1000.0]),
    seed=st.integers(0, 9),
)
def test_what_is_left_and_what_is_taken_add_up_and_keep_to_the_rule(
    panels: int, chains: int, depth: int, spread: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    drawn = np.rint(rng.standard_normal((panels, chains * depth, 8, 4)) * spread)
    weights = np.clip(drawn, -64, 64).astype(np.int8)
    left, excess = take_excess(weights, depth)
    total = left.astype(int)
    for panel in range(panels):
        more = excess.weights[panel].reshape(-1, 8, 4)
        np.add.at(total[panel], excess.steps[panel].ravel(), more.astype(int))
    assert np.array_equal(total, weights)
    assert keeps_to_the_rule(left.reshape(panels, chains, depth, 8, 4))
    assert keeps_to_the_rule(excess.weights)


def test_weights_that_are_seldom_large_leave_little() -> None:
    rng = np.random.default_rng(0)
    weights = np.clip(np.rint(rng.standard_normal((8, 96, 16, 4)) * 20), -64, 64).astype(np.int8)
    _, excess = take_excess(weights, 2)
    assert 0 < excess.steps.shape[1] <= 5


def test_small_weights_leave_nothing() -> None:
    weights = np.full((2, 8, 16, 4), 32, np.int8)
    left, excess = take_excess(weights, 2)
    assert np.array_equal(left, weights)
    assert excess.steps.shape == (2, 0, 2)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_bins_hold_every_entry_once(depth: int) -> None:
    rng = np.random.default_rng(1)
    weights = rng.integers(-64, 65, (3, 50, 8, 4)).astype(np.int8)
    numbers = np.tile(rng.permutation(50).astype(np.int32), (3, 1))
    bins = fill(weights, numbers, depth)
    assert keeps_to_the_rule(bins.weights)
    for panel in range(3):
        held = bins.weights[panel].reshape(-1, 8, 4)
        used = held.any((1, 2))
        found = bins.steps[panel].ravel()[used]
        assert sorted(found) == list(range(50))
        order = np.argsort(numbers[panel])
        assert np.array_equal(held[used][np.argsort(found)], weights[panel][order])
