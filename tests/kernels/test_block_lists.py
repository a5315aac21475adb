"""Mirror of tvmopt/kernels/block_lists.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tvmopt.kernels.block_lists import BlockLists, best, density, pack
from tvmopt.kernels.conv_site import ConvSite
from tvmopt.kernels.sparse_pixels_site import UNROLL, SparsePixelsConfig, configs

SITE = ConvSite(
    batch=1, height=14, width=14, channels=40, out_channels=20, kernel=(3, 3), pads=(1, 1, 1, 1)
)


def _weight(density: float, outputs: int) -> np.ndarray:
    rng = np.random.default_rng(outputs)
    weight = rng.standard_normal((20, 3, 3, 40)).astype(np.float32)
    kept = rng.random((20 // outputs, 3, 3, 40)) < density
    return weight * np.repeat(kept, outputs, axis=0)


def _dense(lists: BlockLists, how: SparsePixelsConfig, weight: np.ndarray) -> np.ndarray:
    """Return what lists hold, as (o, kh, kw, c); outputs that stand in two lists must agree."""
    places = how.bands.places().reshape(-1)
    found = np.full((len(weight), len(places)), np.nan)
    for number in range(how.lists):
        first = number * how.outputs
        group, within = divmod(first, how.lanes)
        column = min(group * how.lanes, len(weight) - how.lanes) + within
        rows = np.zeros((how.outputs, len(places)))
        for block in range(how.depth):
            at = block * how.lists + number
            for step in range(lists.starts[at], lists.starts[at + 1]):
                if lists.weights[step].any():
                    rows[:, places == lists.offsets[step]] = lists.weights[step]
        old = found[column : column + how.outputs]
        assert np.isnan(old).all() or np.array_equal(old, rows)
        found[column : column + how.outputs] = rows
    return found.reshape(weight.shape)


@pytest.mark.parametrize("outputs", [1, 2, 4])
def test_lists_hold_every_weight_once_in_whole_rounds(kit: Any, outputs: int) -> None:
    weight = _weight(0.3, outputs)
    for how in configs(SITE, outputs, kit.AVX2):
        lists = pack(weight, how)
        assert not (np.diff(lists.starts) % UNROLL).any()
        np.testing.assert_array_equal(_dense(lists, how, weight), weight)


def test_a_weight_of_zeros_keeps_one_round(kit: Any) -> None:
    how = configs(SITE, 1, kit.AVX2)[0]
    lists = pack(np.zeros((20, 3, 3, 40), np.float32), how)
    assert lists.count == UNROLL
    assert not lists.weights.any()


@pytest.mark.parametrize("outputs", [2, 4])
def test_the_best_blocks_are_those_that_the_zeros_have(kit: Any, outputs: int) -> None:
    found = best(SITE, _weight(0.1, outputs), kit.AVX2)
    assert found is not None
    assert outputs % found.how.outputs == 0, "a larger block has fewer zeros"
    assert found.zeros == pytest.approx(0.9, abs=0.03)
    assert f"of the {found.how.outputs}x1 blocks are 0" in found.note


def test_density_counts_blocks(kit: Any) -> None:
    weight = np.zeros((20, 3, 3, 40), np.float32)
    weight[4, 1, 1, 7] = 1
    how = next(how for how in configs(SITE, 4, kit.AVX2))
    assert density(weight, how) == 1 / (5 * 9 * 40)
