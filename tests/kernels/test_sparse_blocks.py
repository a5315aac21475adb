"""Mirror of tvmopt/kernels/sparse_blocks.py."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tvmopt.kernels.blocks import RowBlocks
from tvmopt.kernels.conv_site import ConvSite
from tvmopt.kernels.sparse_blocks import L1_SHARE, row_blocks
from tvmopt.kernels.tile import Tile
from tvmopt.targets import get

TARGET = get("zen3")
TILE = Tile(4, 16, 8)
PRODUCT = ConvSite(batch=1, height=1, width=128, channels=384, out_channels=384, kernel=(1, 1))
STRIDED = ConvSite(
    batch=1, height=56, width=56, channels=64, out_channels=128, kernel=(1, 1), strides=(2, 2)
)


def chosen(conv: ConvSite, steps: int, size: int = 4) -> RowBlocks:
    return row_blocks(conv, TILE, steps, (size, size, steps * (16 * size + 2)), TARGET)


def held(conv: ConvSite, blocks: RowBlocks, size: int = 4) -> int:
    """Return the bytes of a block's pixels: what is read of them, and the output."""
    return blocks.per_block * blocks.rows * (conv.channels + conv.out_channels) * size


@pytest.mark.parametrize(("conv", "steps"), [(PRODUCT, 1843), (STRIDED, 103)])
def test_pixels_that_lists_jump_through_stay_in_level_1(conv: ConvSite, steps: int) -> None:
    blocks = chosen(conv, steps)
    most = L1_SHARE * TARGET.l1d_bytes
    assert held(conv, blocks) <= most or blocks.per_block == 1
    more = RowBlocks(blocks.m, blocks.rows, blocks.per_block + 1)
    # One tile more would not, or the same number of blocks of one size holds fewer.
    assert held(conv, more) > most or more.count < blocks.count


def test_a_panel_of_few_products_is_not_left_soon() -> None:
    assert chosen(replace(PRODUCT, channels=24), 100).per_block > chosen(PRODUCT, 1843).per_block


def test_weights_that_are_more_than_the_pixels_pass_once() -> None:
    # 96 panels of 77 steps come from beyond level 2, for 4 pixels of 384 channels each time.
    assert chosen(replace(PRODUCT, out_channels=1536), 7373).count == 1


def test_taps_of_neighbours_keep_their_lines_in_level_2() -> None:
    conv = ConvSite(
        batch=1,
        height=28,
        width=28,
        channels=128,
        out_channels=128,
        kernel=(3, 3),
        pads=(1, 1, 1, 1),
    )
    pixel = (conv.channels + conv.out_channels) * 1
    same = RowBlocks.choose(conv.rows, TILE.rows, pixel, 500 * 66, TARGET)
    assert row_blocks(conv, TILE, 500, (1, 1, 500 * 66), TARGET) == same
