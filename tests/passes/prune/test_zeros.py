"""Mirror of passes/prune/zeros.py."""

from __future__ import annotations

import numpy as np
import pytest

from tvmopt.passes.prune.zeros import BLOCKS, zero_structure


def pruned(
    outputs: int, inputs: int, share: float, *, rows: int = 64, taps: int = 9, run: int = 32
) -> np.ndarray:
    """Return random weights (rows, taps * run) without a random share of blocks."""
    rng = np.random.default_rng(outputs * 100 + inputs)
    kept = rng.random((-(-rows // outputs), taps, -(-run // inputs))) >= share
    mask = kept.repeat(outputs, axis=0)[:rows].repeat(inputs, axis=2)[:, :, :run]
    return (rng.normal(size=(rows, taps, run)) * mask).reshape(rows, -1)


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9])
@pytest.mark.parametrize(("outputs", "inputs"), BLOCKS)
def test_blocks_are_found_whatever_the_share(outputs: int, inputs: int, share: float) -> None:
    found = zero_structure(pruned(outputs, inputs, share, rows=256), 32)
    assert found == f"{outputs}x{inputs}"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_zeros_anywhere_are_no_blocks(share: float) -> None:
    assert zero_structure(pruned(1, 1, share), 32) == "unstructured"


def test_a_last_panel_may_be_short() -> None:
    assert zero_structure(pruned(16, 4, 0.6, rows=72, run=30), 30) == "16x4"


def test_a_nearly_empty_weight_does_not_look_like_blocks() -> None:
    assert zero_structure(pruned(1, 1, 0.99, rows=256), 32) == "unstructured"


@pytest.mark.parametrize(("bits", "outputs", "inputs"), [(7, 16, 1), (4, 16, 4), (7, 4, 1)])
def test_weights_that_were_rounded_to_zero_do_not_matter(
    bits: int, outputs: int, inputs: int
) -> None:
    weight = pruned(outputs, inputs, 0.7)
    steps = 2 ** (bits - 1) - 1
    codes = np.rint(weight / np.abs(weight).max() * steps)
    assert (codes == 0).mean() > (weight == 0).mean()
    assert zero_structure(codes, 32) == f"{outputs}x{inputs}"


@pytest.mark.parametrize(("kept", "of"), [(1, 4), (2, 4), (4, 8)])
def test_n_of_m_is_found(kept: int, of: int) -> None:
    rng = np.random.default_rng(kept)
    weight = rng.normal(size=(64, 9 * 32 // of, of))
    order = np.argsort(rng.random(weight.shape), axis=2)
    weight[order >= kept] = 0.0
    assert zero_structure(weight.reshape(64, -1), 32) == f"{kept}:{of}"


def test_a_share_that_no_n_of_m_makes_is_none() -> None:
    # Of 4 neighbours 2 are seldom left at 99 % zeros, whoever made them.
    assert zero_structure(pruned(1, 1, 0.99, rows=16, taps=1), 32) == "unstructured"


@pytest.mark.parametrize(("axis", "name"), [(0, "whole outputs"), (2, "whole inputs")])
def test_whole_channels_are_found(axis: int, name: str) -> None:
    weight = np.random.default_rng(0).normal(size=(48, 9, 20))
    index: list[slice | list[int]] = [slice(None)] * 3
    index[axis] = [1, 2, 7]
    weight[tuple(index)] = 0.0
    assert zero_structure(weight.reshape(48, -1), 20) == name


def test_a_weight_without_zeros_has_no_structure() -> None:
    weight = np.ones((16, 16))
    weight[0, 0] = 0.0  # 1 of 256
    assert zero_structure(weight, 16) is None
    assert zero_structure(np.zeros((16, 16)), 16) == "whole outputs"
    assert zero_structure(np.zeros((0, 16)), 16) is None
