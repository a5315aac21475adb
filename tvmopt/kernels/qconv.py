"""Convolutions and matrix products of 8-bit integers, exact, with constant weights.

``y = epilogue(sum (x - zero point) * w + bias)``, x uint8 or int8, the sum in int32. Rows are
output pixels, columns output channels, k runs over the taps in contiguous runs of the input, as in
conv.py; a matrix product is the convolution of one line of m pixels by 1x1. Runs are cut into
groups of the instruction (dot.py), the last one filled up with zero weights.

The zero point needs no arithmetic in the loop: padding holds it, and what it adds to a sum is known
at compile time and stands in the bias, or, where it is known at run time alone, is taken off where
the sum starts.

Sources: B. Jacob et al., "Quantization and training of neural networks for efficient
integer-arithmetic-only inference", CVPR 2018, section 2.3, for the zero point's place in the bias;
M. Dukhan, Y. Wu and H. Lu, QNNPACK (2018), for the register tile over pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.kernels import cost, nibbles
from tvmopt.kernels.blocks import RowBlocks, worth_threads
from tvmopt.kernels.dot import Dot, choose_dot, evenly, word
from tvmopt.kernels.dot_tile import DotTile
from tvmopt.kernels.micro import write_tile
from tvmopt.kernels.qconv_site import QConvSite, flips, image_of, panels_of, shift, steps_of
from tvmopt.kernels.qtile import choose_qtile, tile_cycles
from tvmopt.kernels.tile import Tile, panel_columns
from tvmopt.kernels.vector import (
    Expr,
    Vector,
    bind,
    cast,
    loop,
    parameters,
    prefetch,
    prim_func,
    wrapping,
)
from tvmopt.targets.description import CpuTarget

LINE_BYTES = 64  # of a cache line


@dataclass(frozen=True, kw_only=True, slots=True)
class QConvConfig:
    """How an integer convolution is cut.

    Attributes:
        dot: How a step of the products is done.
        tile: The register tile: pixels by output channels.
        rows: Blocks of pixels; one block runs against all panels while it lies in level 2.
        prefetch: Whether the next panel is fetched ahead, for weights that outrun level 2.
        parallel: Whether blocks are shared out among threads.
        extra: Steps of each panel for weights in excess (bins.py), where ``dot`` is chained.
        packed: Whether two weights share a byte, and a panel is unpacked before a block runs
            against it (nibbles.py).
    """

    dot: Dot
    tile: Tile
    rows: RowBlocks
    prefetch: bool
    parallel: bool
    extra: int = 0
    packed: bool = False


def config(site: QConvSite, target: CpuTarget, dot: Dot | None = None) -> QConvConfig:
    """Return the analytic choice for ``site``; ``dot`` None takes the best for any weights."""
    conv, dot = site.conv, dot or choose_dot(target, site.largest)
    dot = evenly(dot, steps_of(site, dot))
    steps = site.lines * steps_of(site, dot)
    tile = choose_qtile(conv.rows, site.columns, steps, dot, target, image_of(site, dot).line)
    weights = steps * dot.group * np.dtype(dot.weight).itemsize * conv.out_channels
    row_bytes = conv.channels * conv.strides[0] * conv.strides[1] + conv.out_channels
    return QConvConfig(
        dot=dot,
        tile=tile,
        rows=RowBlocks.choose(conv.rows, tile.rows, row_bytes, weights, target),
        prefetch=weights > 2 * target.l2_bytes,
        parallel=worth_threads(conv.macs // 2),  # a product of integers takes half as long
    )


def cycles(site: QConvSite, how: QConvConfig, target: CpuTarget) -> float:
    """Return the predicted cycles of one core: products, input copied, and the weights' way in."""
    conv, image = site.conv, image_of(site, how.dot)
    steps = site.lines * steps_of(site, how.dot)
    count = how.rows.total * conv.groups * len(panels_of(site, how.tile))
    tiles = count * tile_cycles(
        how.tile, steps + how.extra, how.dot, target, conv.epilogue, image.line
    )
    size = steps * how.dot.group * np.dtype(how.dot.weight).itemsize * conv.out_channels
    fetch = cost.stream_cycles(size // 2 if how.packed else size, target)
    unpack = nibbles.UNPACK_CYCLES * how.rows.count * size / nibbles.LONGEST
    return (
        cost.CALL_CYCLES
        + max(tiles, fetch * how.rows.count)
        + (unpack if how.packed else 0)
        + cost.stream_cycles(2 * image.scratch_bytes, target)
    )


def pack(weight: np.ndarray, site: QConvSite, how: QConvConfig) -> np.ndarray:
    """Return integer weights (o, kh, kw, c / groups) as the kernel reads them.

    Returns:
        (panels, lines, steps, tile.width, dot.group) of the dot's type, zeros where a run ends
        within a group and where a tile has more columns than the convolution; of integers that
        share bytes, (panels, bytes).
    """
    dot, tile, conv = how.dot, how.tile, site.conv
    steps = steps_of(site, dot)
    runs = np.zeros((conv.groups, max(site.columns, tile.columns), site.lines, steps * dot.group))
    runs[:, : site.columns, :, : site.line] = weight.reshape(
        conv.groups, site.columns, site.lines, site.line
    )
    cut = runs[:, panel_columns(runs.shape[1], tile)]  # (groups, panels, width, lines, line)
    cut = cut.reshape(-1, tile.width, site.lines, steps, dot.group).transpose(0, 2, 3, 1, 4)
    if how.packed:
        return nibbles.pack(cut.reshape(len(cut), -1))
    return np.ascontiguousarray(cut.astype(dot.weight))


def pack_bias(
    bias: np.ndarray, weight: np.ndarray, site: QConvSite, how: QConvConfig
) -> np.ndarray:
    """Return what the sums begin with: (panels, tile.width), int32.

    Args:
        bias: (o,), int32.
        weight: As ``pack`` takes it.
        site: The convolution.
        how: How it is cut.
    """
    zero = (0 if site.zero_dtype else site.zero_point) + shift(site, how.dot)
    start = bias.astype(np.int64) - zero * weight.astype(np.int64).sum((1, 2, 3))
    columns = np.zeros((site.conv.groups, max(site.columns, how.tile.columns)), np.int64)
    columns[:, : site.columns] = start.reshape(site.conv.groups, site.columns)
    cut = columns[:, panel_columns(columns.shape[1], how.tile)].reshape(-1, how.tile.width)
    # Sums wrap around in 32 bits, and so may what they begin with: only the last value counts.
    return np.ascontiguousarray(cut.astype(np.uint64).astype(np.uint32).view(np.int32))


def qconv(site: QConvSite, how: QConvConfig, name: str) -> tirx.PrimFunc:
    """Return ``name(x, w: pack(), [extra], bias: pack_bias(), [zero], *operands, y)``.

    ``extra`` are the two tensors of qconv_chained.py for weights in excess, if there are any;
    ``zero`` are the zero point, (1,), and the sums of each column's weights, as ``pack_bias`` has
    the bias, where the zero point is known at run time.
    """
    conv, dot, tile, blocks = site.conv, how.dot, how.tile, how.rows
    per_group, steps = len(panels_of(site, tile)), steps_of(site, dot)
    count, image = conv.groups * per_group, image_of(site, dot)
    panel_size = site.lines * steps * tile.width * dot.group
    dense = (count, site.lines, steps, tile.width, dot.group)
    stored = ((count, panel_size // 2), "uint8") if how.packed else (dense, dot.weight)
    weights = Vector(dot.lanes * dot.group, dot.weight)
    lanes = min(dot.lanes, site.columns)

    def body() -> None:
        excess = [
            ("we", (count, how.extra, tile.width, dot.group), dot.weight),
            ("at", (count, how.extra), "int32"),
        ]
        zero = [("z", (1,), site.zero_dtype or "int32"), ("sums", (count, tile.width), "int32")]
        x, w, *more = parameters(
            ("x", conv.input_shape, site.dtype),
            ("w", *stored),
            *(excess if how.extra else []),
            ("bias", (count, tile.width), "int32"),
            *(zero if site.zero_dtype else []),
            *conv.epilogue.parameters(conv.output_shape),
        )
        extra, (bias, *more) = (more[:2], more[2:]) if how.extra else ([], more)
        zeros, (*operands, y) = (more[:2], more[2:]) if site.zero_dtype else ([], more)
        padded = image.copy(x, parallel=how.parallel, zero=zeros[0][0] if zeros else None)
        with loop(blocks.count * count, parallel=how.parallel) as task:
            block, panel = bind(task // count), bind(task % count)
            group, column0 = panel // per_group, panel * tile.width
            held, begin = w, panel * panel_size
            if how.packed:
                held, begin = nibbles.unpacked(w, bind(panel * (panel_size // 2)), panel_size), 0
            with T.serial(blocks.tiles(block)) as g:
                row = bind(blocks.first_row(block, g))
                pixels = image.pixels(row, tile.rows, group * conv.group_channels)
                sums = DotTile(
                    tile, dot, lambda v: _start(dot, bias, zeros, column0 + v * dot.lanes)
                )
                # Each tile of a block fetches its share of the next panel, each step some of that.
                each = -(-tile.width * dot.group // blocks.per_block)
                ahead = (panel + 1) * panel_size + g * (panel_size // blocks.per_block)
                flip = flips(site, dot)
                if extra:
                    own, places = extra
                    number = bind(panel * how.extra)
                    sums.accumulate(
                        how.extra,
                        lambda i, at: word(padded, pixels[i] + places[number + at], dot, flip=flip),
                        lambda step, v: weights.load(
                            own, ((number + step) * tile.width + v * dot.lanes) * dot.group
                        ),
                    )

                def run(offset: Expr, start: Expr, _extent: int) -> None:
                    """Accumulate one contiguous run of taps."""
                    line = bind(start // site.line * steps)
                    sums.accumulate(
                        steps,
                        lambda i, step: word(
                            padded, pixels[i] + offset + step * dot.group, dot, flip=flip
                        ),
                        lambda step, v: weights.load(
                            held, begin + ((line + step) * tile.width + v * dot.lanes) * dot.group
                        ),
                        (lambda step: _fetch(how, w, ahead + (line + step) * each, each))
                        if how.prefetch
                        else None,
                    )

                image.runs(run)
                first = tirx.min(
                    panel % per_group * tile.columns, max(0, site.columns - tile.columns)
                )
                column = bind(group * site.columns + first)
                write_tile(
                    tile,
                    lambda i, v: Vector(dot.lanes, "int32").first(sums.value(i, v), lanes),
                    y,
                    operands,
                    conv.epilogue,
                    column,
                    lambda i: (row + i) * conv.out_channels,
                    lanes=lanes,
                    row=lambda i: row + i,
                )

    scratch = image.scratch_bytes + panel_size * how.packed
    return prim_func(name, body, {"tvmopt.macs": conv.macs, "tvmopt.scratch_bytes": scratch})


def _fetch(how: QConvConfig, w: tirx.Buffer, start: Expr, count: int) -> None:
    """Ask for the cache lines of ``count`` weights."""
    line = LINE_BYTES // np.dtype(how.dot.weight).itemsize
    for first in range(0, count, line):
        prefetch(w, start + first, 1)


def _start(dot: Dot, bias: tirx.Buffer, zeros: list[tirx.Buffer], place: Expr) -> Expr:
    """Return what a register of sums begins with."""
    whole = Vector(dot.lanes, "int32")
    first = whole.load(bias, place)
    if not zeros:
        return first
    zero, sums = zeros
    share = wrapping("mul", whole.splat(cast(zero[0], "int32")), whole.load(sums, place))
    return wrapping("sub", first, share)
