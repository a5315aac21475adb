"""Convolution as an implicit matrix product: any kernel, stride, padding, dilation and groups.

Rows are output pixels, columns output channels, and k runs over the taps of the kernel. In NHWC a
row of taps is one contiguous run of the input, so no im2col matrix is built; the input is copied
once into a zero-padded image where the convolution pads, and the loops need no tests.

Source: M. Dukhan, "The indirect convolution algorithm" (2019), for the register tile over pixels;
the contiguous runs in place of its pointers are derived here.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.kernels import cost
from tvmopt.kernels.blocks import RowBlocks, worth_threads
from tvmopt.kernels.conv_image import Image
from tvmopt.kernels.conv_site import ConvSite
from tvmopt.kernels.micro import Accumulators
from tvmopt.kernels.tile import Tile, choose_tile, panel_columns, panels
from tvmopt.kernels.vector import Expr, bind, loop, parameters, prefetch, prim_func
from tvmopt.kernels.weight_gemm import decoded
from tvmopt.kernels.weight_site import Weights, WeightSite
from tvmopt.targets.description import CpuTarget


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvConfig:
    """How a convolution is cut.

    Attributes:
        tile: The register tile: pixels by output channels.
        rows: Blocks of pixels; one block runs against all panels while it lies in level 2.
        prefetch: Whether the next panel is fetched ahead.
        parallel: Whether blocks are shared out among threads.
    """

    tile: Tile
    rows: RowBlocks
    prefetch: bool
    parallel: bool


def config(site: ConvSite, target: CpuTarget) -> ConvConfig:
    """Return the analytic choice for ``site``."""
    columns = site.out_channels // site.groups
    tile = choose_tile(
        site.rows,
        columns,
        target,
        k=site.taps,
        line=Image(site).line,
        steps=len(site.epilogue.steps),
    )
    weights = site.taps * site.out_channels * 4
    row_bytes = (site.channels * site.strides[0] * site.strides[1] + site.out_channels) * 4
    inputs = prod(site.input_shape) * 4
    rows = RowBlocks.choose(site.rows, tile.rows, row_bytes, weights, target, input_bytes=inputs)
    return ConvConfig(
        tile=tile,
        rows=rows,
        prefetch=rows.worth_prefetch(weights, target),
        parallel=worth_threads(site.macs),
    )


def cycles(site: ConvSite, how: ConvConfig, target: CpuTarget) -> float:
    """Return the predicted cycles of one core: products, padded copy, images', weights' way in."""
    count = how.rows.total * site.groups * len(panels(site.out_channels // site.groups, how.tile))
    tiles = cost.tile_cycles(how.tile, count, site.taps, site.epilogue, target, Image(site).line)
    fetch = cost.weight_cycles(site.taps * site.out_channels * 4, how.rows.count, target)
    return (
        cost.CALL_CYCLES
        + max(tiles, fetch)
        + cost.stream_cycles(2 * Image(site).scratch_bytes, target)
        + cost.image_cycles(*site.image_bytes, target)
    )


def pack(weight: np.ndarray, groups: int, tile: Tile) -> np.ndarray:
    """Return ``weight`` (o, kh, kw, c / groups) as panels (p, kh, kw * c / groups, tile.width)."""
    o, kh, kw, c = weight.shape
    columns = panel_columns(o // groups, tile)
    cut = weight.reshape(groups, o // groups, kh, kw * c)[:, columns]
    return np.ascontiguousarray(cut.reshape(-1, tile.width, kh, kw * c).transpose(0, 2, 3, 1))


def conv(
    site: ConvSite, how: ConvConfig, name: str, stored: WeightSite | None = None
) -> tirx.PrimFunc:
    """Return ``name(x, w: panels of pack(), *operands, y)``; shapes as the site says.

    Args:
        site: The convolution.
        how: How it is cut.
        name: The kernel's name.
        stored: The product of coded weights that it is; its tensors then stand for ``w``.
    """
    tile, blocks = how.tile, how.rows
    per_group = len(panels(site.out_channels // site.groups, tile))
    count = site.groups * per_group
    image = Image(site)
    taps = site.taps * tile.width
    share = -(-tile.width // blocks.per_block)  # of the next panel's floats: a step's
    panel_bytes = 0 if stored is None else taps * 4

    def body() -> None:
        floats = (count, site.kernel[0], site.taps // site.kernel[0], tile.width)
        tensors = [("w", floats, "float32")] if stored is None else stored.parameters(tile)
        x, *rest = parameters(
            ("x", site.input_shape, "float32", site.input_rows),
            *tensors,
            *site.epilogue.parameters(site.output_shape),
        )
        constants, (*operands, y) = rest[: len(tensors)], rest[len(tensors) :]
        padded = image.copy(x, parallel=how.parallel)
        with loop(blocks.count * count, parallel=how.parallel) as task:
            block, panel = bind(task // count), bind(task % count)
            group = panel // per_group
            w, own = constants[0], bind(panel * taps)
            if stored is not None:
                w, own = decoded(stored, Weights(stored, tile, constants, panel)), 0
            with T.serial(blocks.tiles(block)) as g:
                row = bind(blocks.first_row(block, g))
                pixels = image.pixels(row, tile.rows, group * site.group_channels)
                sums = Accumulators(tile)
                ahead = (panel + 1) * taps + g * site.taps * share

                def run(offset: Expr, start: Expr, extent: int) -> None:
                    """Accumulate one contiguous run of taps."""
                    sums.accumulate(
                        extent,
                        lambda i, step: padded[pixels[i] + offset + step],
                        lambda step, v: sums.vector.load(
                            w, own + (start + step) * tile.width + v * tile.lanes
                        ),
                        (lambda step: prefetch(w, ahead + (start + step) * share, share))
                        if how.prefetch and stored is None
                        else None,
                    )

                image.runs(run)
                size = site.out_channels // site.groups
                first = tirx.min(panel % per_group * tile.columns, size - tile.columns)
                column = bind(group * size + first)
                sums.write(
                    y,
                    operands,
                    site.epilogue,
                    column,
                    lambda i: (row + i) * site.out_channels,
                    row=lambda i: row + i,
                )

    attrs = {"tvmopt.macs": site.macs, "tvmopt.scratch_bytes": image.scratch_bytes + panel_bytes}
    return prim_func(name, body, attrs)
