"""Convolutions and matrix products of float32 with block-sparse constant weights.

The loops are those of conv.py, but along k only the steps that are not zero are taken: each reads a
column of weights (one register tile wide) and its place in the input. A product is the convolution
of one line of m pixels by 1x1.

A tile of one or two rows has too few sums to hide the latency of a multiply-add: it gets several
sets of them, which take the steps in turn and are added up at the end.

Source: the register tile of conv.py over the lists of panel_steps.py; derived here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.kernels import cost
from tvmopt.kernels.blocks import RowBlocks, worth_threads
from tvmopt.kernels.conv_image import Image
from tvmopt.kernels.conv_site import ConvSite
from tvmopt.kernels.epilogue import Epilogue
from tvmopt.kernels.micro import Accumulators
from tvmopt.kernels.panel_steps import PanelSteps, panel_steps
from tvmopt.kernels.sparse_blocks import row_blocks
from tvmopt.kernels.tile import FMA_LATENCY, LOADS_PER_CYCLE, MAX_ROWS, Tile, panel_columns, panels
from tvmopt.kernels.vector import Expr, bind, cast, loop, parameters, prim_func
from tvmopt.targets.description import CpuTarget

WIDTHS = (2, 1)  # registers of columns that a block may have
STEP_CYCLES = 0.3  # to read a step's place
TIGHT_CYCLES = 0.25  # what a step costs more whose sums are too few to hide the latency of others
LIST_CYCLES = 4  # a loop whose length nothing tells before; fitted on Zen 3


@dataclass(frozen=True, kw_only=True, slots=True)
class SparseConvSite:
    """A convolution with block-sparse weights.

    Attributes:
        conv: Shapes and epilogue; one group.
        steps: Blocks that are not zero.
        index: Type of their offsets.
    """

    conv: ConvSite
    steps: int
    index: str

    @property
    def epilogue(self) -> Epilogue:
        """What follows the convolution."""
        return self.conv.epilogue


@dataclass(frozen=True, kw_only=True, slots=True)
class SparseConvConfig:
    """How a sparse convolution is cut.

    Attributes:
        tile: The register tile; its columns are a block's.
        rows: Blocks of pixels; one runs against all panels while it lies in level 2.
        parallel: Whether blocks are shared out among threads.
        sets: Sets of sums; each panel has a multiple of so many steps.
    """

    tile: Tile
    rows: RowBlocks
    parallel: bool
    sets: int = 1


def sets_of(conv: ConvSite, width: int, target: CpuTarget) -> int:
    """Return the sets of sums of a convolution of so few rows that one tile holds them all."""
    sums = conv.rows * width
    return max(1, FMA_LATENCY * target.fma_per_cycle // sums) if conv.rows <= 2 else 1


def config(conv: ConvSite, width: int, steps: int, target: CpuTarget) -> SparseConvConfig | None:
    """Return the choice for blocks of ``width`` registers of columns; None if there are too few.

    Args:
        conv: The convolution.
        width: Registers of columns of a block.
        steps: Blocks that are not zero.
        target: The machine.
    """
    lanes = target.lanes(32)
    if conv.out_channels < width * lanes:
        return None
    free = target.vector_registers - 1 - width
    most, line = min(conv.rows, MAX_ROWS + 2, free // width), Image(conv).line

    sets = sets_of(conv, width, target)

    def spent(rows: int) -> float:
        tile = Tile(rows, width * lanes, lanes)
        return -(-conv.rows // rows) * _tiles(conv, tile, sets, steps, target)

    # Where a tile crosses the end of a line, each row has an address of its own.
    possible = [r for r in range(1, most + 1) if r <= MAX_ROWS or not line or line % r == 0]
    possible = possible if sets == 1 else [conv.rows]
    tile = Tile(min(possible, key=spent), width * lanes, lanes)
    weights = steps * (tile.columns * 4 + 2)
    output = np.dtype(conv.epilogue.dtype).itemsize
    return SparseConvConfig(
        tile=tile,
        rows=row_blocks(conv, tile, steps, (4, output, weights), target),
        parallel=worth_threads(conv.rows * steps * tile.columns, weights),
        sets=sets,
    )


def cycles(site: SparseConvSite, how: SparseConvConfig, target: CpuTarget) -> float:
    """Return the predicted cycles of one core."""
    work = how.rows.total * _tiles(site.conv, how.tile, how.sets, site.steps, target)
    size = site.steps * (how.tile.columns * 4 + 2)
    fetch = cost.weight_cycles(size, how.rows.count, target)
    copied = cost.stream_cycles(2 * Image(site.conv).scratch_bytes, target)
    return cost.CALL_CYCLES + max(work, fetch) + copied


def _tiles(conv: ConvSite, tile: Tile, sets: int, steps: int, target: CpuTarget) -> float:
    """Return the cycles of one tile of every panel."""
    number, later = len(panels(conv.out_channels, tile)), len(conv.epilogue.steps)
    elementwise = tile.rows * tile.vectors * cost.STEP_CYCLES * later * (1 - cost.HIDDEN_STEPS)
    ends = tile.ends(Image(conv).line, later) + LIST_CYCLES + elementwise
    tight = tile.rows * tile.vectors <= FMA_LATENCY * target.fma_per_cycle
    # As many rows as all sets have together cost what the sets do.
    whole = Tile(tile.rows * sets, tile.columns, tile.lanes).cycles(1, target) / sets
    step = max(whole, (tile.rows + tile.vectors) / LOADS_PER_CYCLE)
    return number * ends + steps * (step + STEP_CYCLES + TIGHT_CYCLES * tight)


def pack(weight: np.ndarray, conv: ConvSite, width: int, target: CpuTarget) -> PanelSteps:
    """Return the blocks of (o, kh, kw, c) that are not zero, ``width`` registers wide."""
    lanes = target.lanes(32)
    tile = Tile(1, width * lanes, lanes)
    image = Image(conv)
    lines = image.starts()
    flat = weight.reshape(conv.out_channels, len(lines), -1)
    cut = flat[panel_columns(conv.out_channels, tile)]  # (panels, columns, lines, run)
    dense = cut.transpose(0, 2, 3, 1)[..., None]
    return panel_steps(dense, lines, multiple=sets_of(conv, width, target))


def sparse_conv(site: SparseConvSite, how: SparseConvConfig, name: str) -> tirx.PrimFunc:
    """Return ``name(x, w, offsets, panels, *operands, y)``; the three of ``PanelSteps``."""
    conv, tile, blocks = site.conv, how.tile, how.rows
    count, image = len(panels(conv.out_channels, tile)), Image(conv)

    def body() -> None:
        x, w, offsets, table, *operands, y = parameters(
            ("x", conv.input_shape),
            ("w", (site.steps, tile.columns, 1)),
            ("offsets", (site.steps,), site.index),
            ("panels", (count + 1, 2), "int32"),
            *conv.epilogue.parameters(conv.output_shape),
        )
        padded = image.copy(x, parallel=how.parallel)
        with loop(blocks.count * count, parallel=how.parallel) as task:
            block, number = bind(task // count), bind(task % count * 2)
            first, panel = bind(table[number]), bind(table[number + 1])
            extent = bind(table[number + 2] - first)
            with T.serial(blocks.tiles(block)) as g:
                row = bind(blocks.first_row(block, g))
                pixels = image.pixels(row, tile.rows, 0)
                sums = Accumulators(tile)

                # In 64 bits: additions in 32 become vectors, which LLVM then takes apart again.
                def taps(step: Expr, first: Expr = first) -> Expr:
                    return cast(offsets[first + step], "int64")

                sums.accumulate_listed(
                    extent,
                    taps,
                    lambda i, offset: padded[cast(pixels[i], "int64") + offset],
                    lambda step, v: sums.vector.load(
                        w, (first + step) * tile.columns + v * tile.lanes
                    ),
                    how.sets,
                )
                column = bind(tirx.min(panel * tile.columns, conv.out_channels - tile.columns))
                sums.write(
                    y,
                    operands,
                    conv.epilogue,
                    column,
                    lambda i: (row + i) * conv.out_channels,
                    row=lambda i: row + i,
                )

    attrs = {
        "tvmopt.macs": conv.rows * site.steps * tile.columns,
        "tvmopt.scratch_bytes": image.scratch_bytes,
    }
    return prim_func(name, body, attrs)
