"""How many pixels of a block-sparse product run against a panel of weights before the next panel.

The steps of a list jump through the channels of a tile's pixels. Where these do not lie in level 1,
each tile of each panel waits for them; where they do, the panels come past instead, once for each
block of pixels, but one step after the other as prefetchers like it. Fewer bytes decide, and that
a panel is not left again too soon: its list's length is a branch that has to be learnt.

Source: none; derived here, the bytes of each level as in cost.py.
"""

from __future__ import annotations

from tvmopt.kernels import cost
from tvmopt.kernels.blocks import RowBlocks
from tvmopt.kernels.conv_site import ConvSite
from tvmopt.kernels.tile import Tile, panels
from tvmopt.targets.description import CpuTarget

L1_SHARE = 0.5  # of level 1 that a block's pixels may take beside the weights that come past
VISIT = 500  # products of registers below which leaving a panel shows; measured on Zen 3


def row_blocks(
    conv: ConvSite, tile: Tile, steps: int, sizes: tuple[int, int, int], target: CpuTarget
) -> RowBlocks:
    """Return the blocks for which least has to come into level 1.

    Args:
        conv: The convolution.
        tile: The register tile.
        steps: Blocks of weights that are not zero, of all panels.
        sizes: Bytes of an element of the input, of one of the output, and of all weights.
        target: The machine.
    """
    input_size, output_size, weight_bytes = sizes
    pixel = conv.channels * conv.strides[0] * conv.strides[1] * input_size
    output = conv.out_channels * output_size
    large = RowBlocks.choose(conv.rows, tile.rows, pixel + output, weight_bytes, target)
    strided = max(conv.strides) > 1
    if not strided and not conv.pointwise:
        return large  # prefetchers follow the lines, and neighbouring taps read them again
    (kh, kw), step = conv.kernel, conv.strides[1]
    column = kh * conv.channels * input_size  # what one more column of a line's taps reads
    first, each = max(0, kw - step) * column, min(kw, step) * column
    most = (int(L1_SHARE * target.l1d_bytes) - first) // (tile.rows * (each + output))
    tiles, number = -(-conv.rows // tile.rows), len(panels(conv.out_channels, tile))
    small = RowBlocks(conv.rows, tile.rows, -(-tiles // -(-tiles // max(1, min(most, tiles)))))
    work = small.per_block * tile.rows * tile.vectors * steps / number
    if small.per_block >= large.per_block or (work < VISIT and not strided):
        return large
    # Cycles until a tile of a panel has its share of the weights, or its pixels.
    weights = cost.stream_cycles(weight_bytes, target) / number / small.per_block
    held = large.per_block * tile.rows * pixel
    pixels = cost.stream_cycles(held, target) / held * (first + tile.rows * each)
    return small if weights < pixels else large
