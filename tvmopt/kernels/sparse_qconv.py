"""Convolutions and matrix products of 8-bit integers with block-sparse constant weights, exact.

The loops are those of qconv.py, but along k only the steps that are not zero are taken: each reads
``columns x group`` weights (16 x 4 with AVX2) and their place in the input.

Source: as sparse_conv.py; that a block is what one instruction multiplies is E. Frantar's and the
DeepSparse engine's practice (M. Kurtz et al., "Inducing and exploiting activation sparsity for fast
neural network inference", ICML 2020, section 4, for compressed kernels in registers).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.kernels import cost, qconv
from tvmopt.kernels.blocks import worth_threads
from tvmopt.kernels.dot import Dot, choose_dot, word
from tvmopt.kernels.dot_tile import DotTile
from tvmopt.kernels.epilogue import Epilogue
from tvmopt.kernels.micro import write_tile
from tvmopt.kernels.panel_steps import PanelSteps, panel_steps
from tvmopt.kernels.qconv import QConvConfig, QConvSite, image_of
from tvmopt.kernels.qtile import MAX_ROWS, elementwise_steps, held, tile_cycles
from tvmopt.kernels.sparse_blocks import row_blocks
from tvmopt.kernels.tile import Tile, panels
from tvmopt.kernels.vector import (
    Expr,
    Vector,
    align_stack,
    bind,
    cast,
    loop,
    parameters,
    prim_func,
)
from tvmopt.targets.description import CpuTarget

WIDTHS = (2, 1)  # registers of columns that a block may have
STEP_CYCLES = 0.5  # to read a step's place
OVERLAP_CYCLES = 8  # of a tile's ends, behind the next one's products; fitted on Zen 3, as what
# follows.
# What addresses cost a step where each of many rows has its own: from 6 on, or 5 with two words
# each, LLVM puts additions of 32 bits together in vectors, and takes them apart again.
ADDRESS_CYCLES, ADDRESS_ROWS = 4, 6
HIDDEN = 0.75  # share of a tile's elementwise steps that the next tile's products hide
SPILL_CYCLES = 0.15  # what a step costs more for each register that a chained tile has too few


@dataclass(frozen=True, kw_only=True, slots=True)
class SparseQConvSite:
    """An integer convolution with block-sparse weights.

    Attributes:
        qconv: Shapes, types and epilogue; one group.
        steps: Blocks that are not zero.
        index: Type of their offsets.
    """

    qconv: QConvSite
    steps: int
    index: str

    @property
    def epilogue(self) -> Epilogue:
        """What follows the convolution."""
        return self.qconv.epilogue


def config(
    site: QConvSite, width: int, steps: int, target: CpuTarget, dot: Dot | None = None
) -> QConvConfig | None:
    """Return the choice for blocks of ``width`` registers of columns; None if there are too few.

    Args:
        site: The convolution.
        width: Registers of columns of a block.
        steps: Blocks that are not zero.
        target: The machine.
        dot: How a step is done; None takes the best for any weights.
    """
    conv, dot = site.conv, dot or choose_dot(target, site.largest)
    columns = width * dot.lanes
    if conv.groups != 1 or conv.out_channels < columns:
        return None
    tiles = [Tile(r, columns, dot.lanes) for r in range(1, min(conv.rows, MAX_ROWS) + 1)]

    def spent(tile: Tile) -> float:
        return -(-conv.rows // tile.rows) * _tiles(site, tile, dot, steps, target)

    # A chained step reads each word twice and computes long enough to hide what is spilled.
    fit = [tile for tile in tiles if dot.chained or not _spilled(tile, dot, target)]
    tile = min(fit, key=spent)
    weights = steps * (columns * dot.group * np.dtype(dot.weight).itemsize + 2)
    sizes = (np.dtype(site.dtype).itemsize, np.dtype(conv.epilogue.dtype).itemsize, weights)
    return QConvConfig(
        dot=dot,
        tile=tile,
        rows=row_blocks(conv, tile, steps, sizes, target),
        prefetch=False,
        parallel=worth_threads(conv.rows * steps * columns * dot.group // 2),
    )


def cycles(site: SparseQConvSite, how: QConvConfig, target: CpuTarget) -> float:
    """Return the predicted cycles of one core."""
    tile, dot = how.tile, how.dot
    work = how.rows.total * _tiles(site.qconv, tile, dot, site.steps, target)
    size = site.steps * (tile.columns * dot.group * np.dtype(dot.weight).itemsize + 2)
    fetch = cost.stream_cycles(size, target) * how.rows.count
    copied = cost.stream_cycles(2 * image_of(site.qconv, dot).scratch_bytes, target)
    return cost.CALL_CYCLES + max(work, fetch) + copied


def _tiles(site: QConvSite, tile: Tile, dot: Dot, steps: int, target: CpuTarget) -> float:
    """Return the cycles of one tile of every panel."""
    epilogue, line = site.conv.epilogue, image_of(site, dot).line
    number = len(panels(site.conv.out_channels, tile))
    one, two = (tile_cycles(tile, n, dot, target, epilogue, line) for n in (1, 2))
    hidden = HIDDEN * tile.rows * tile.vectors * cost.STEP_CYCLES * elementwise_steps(epilogue)
    ends = 2 * one - two - OVERLAP_CYCLES - hidden
    many = tile.rows >= ADDRESS_ROWS - dot.chained
    crossing = line is not None and line % tile.rows != 0 and many
    more = ADDRESS_CYCLES * crossing + SPILL_CYCLES * _spilled(tile, dot, target)
    return number * ends + steps * (two - one + STEP_CYCLES + more)


def _spilled(tile: Tile, dot: Dot, target: CpuTarget) -> int:
    """Return the registers that a tile has too few."""
    # Sums, the block's weights, the activation and a product; sums of pairs widen by ones.
    held_at_once = tile.rows * tile.vectors + tile.vectors * held(dot) + 2
    return max(0, held_at_once + (dot.name == "pmaddubsw") - target.vector_registers)


def pack(weight: np.ndarray, site: QConvSite, how: QConvConfig) -> PanelSteps:
    """Return the blocks of integers (o, kh, kw, c) that are not zero, as the kernel reads them."""
    dense, dot = qconv.pack(weight, site, how), how.dot
    return panel_steps(dense, image_of(site, dot).starts(), dot.depth if dot.chained else 1)


def sparse_qconv(site: SparseQConvSite, how: QConvConfig, name: str) -> tirx.PrimFunc:
    """Return ``name(x, w, offsets, panels, bias: qconv.pack_bias(), *operands, y)``."""
    inner, dot, tile, blocks = site.qconv, how.dot, how.tile, how.rows
    conv, image = inner.conv, image_of(inner, dot)
    count = len(panels(conv.out_channels, tile))
    weights, whole = Vector(dot.lanes * dot.group), Vector(dot.lanes, "int32")

    def body() -> None:
        x, w, offsets, table, bias, *operands, y = parameters(
            ("x", conv.input_shape, inner.dtype),
            ("w", (site.steps, tile.columns, dot.group), dot.weight),
            ("offsets", (site.steps,), site.index),
            ("panels", (count + 1, 2), "int32"),
            ("bias", (count, tile.width), "int32"),
            *conv.epilogue.parameters(conv.output_shape),
        )
        padded = image.copy(x, parallel=how.parallel)
        with loop(blocks.count * count, parallel=how.parallel) as task:
            block, number = bind(task // count), bind(task % count * 2)
            first, panel = bind(table[number]), bind(table[number + 1])
            extent = bind(table[number + 2] - first)
            align_stack(dot.lanes)
            with T.serial(blocks.tiles(block)) as g:
                row = bind(blocks.first_row(block, g))
                pixels = image.pixels(row, tile.rows, 0)
                start = panel * tile.width
                sums = DotTile(tile, dot, lambda v: whole.load(bias, start + v * dot.lanes))
                sums.accumulate(
                    extent,
                    _listed(padded, pixels, offsets, first, dot, flip=qconv.flips(inner, dot)),
                    lambda step, v: weights.load(
                        w, ((first + step) * tile.columns + v * dot.lanes) * dot.group
                    ),
                )
                write_tile(
                    tile,
                    sums.value,
                    y,
                    operands,
                    conv.epilogue,
                    bind(tirx.min(panel * tile.columns, conv.out_channels - tile.columns)),
                    lambda i: (row + i) * conv.out_channels,
                    row=lambda i: row + i,
                )

    macs = conv.rows * site.steps * tile.columns * dot.group
    attrs = {"tvmopt.macs": macs, "tvmopt.scratch_bytes": image.scratch_bytes}
    return prim_func(name, body, attrs)


def _listed(
    x: tirx.Buffer, pixels: list[Expr], offsets: tirx.Buffer, first: Expr, dot: Dot, *, flip: bool
) -> Callable[[int, Expr], Expr]:
    """Return what gives the activations of row i at a step: they lie where the list says."""

    def row(i: int, step: Expr) -> Expr:
        place = cast(pixels[i], "int64") + cast(offsets[first + step], "int64")
        return word(x, place, dot, flip=flip)

    return row
