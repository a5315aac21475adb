"""Depthwise convolution: every channel with its own kernel, NHWC.

A tile is a few neighbouring output pixels by one or two vectors of channels; each input column is
loaded once for all the pixels that need it. Taps above and below the image are skipped by the
bounds of the vertical loop, taps left and right of it by a test that only border tiles make.

Inputs of 8-bit integers are converted as they are loaded, and the weights are integers in float32:
sums below 2**24 are then exact, with multiply-adds as fast as any and a quarter of the memory's
traffic. What the zero point adds to a sum is taken off where the sum starts, line by line of taps
within the image; left and right of the image lies the zero point. (Products of 16 bits, paired
along the vertical taps, take as many instructions on AVX2: their sums have to be converted.)

Source: none; derived here. The layout and the walk over channels are those of XNNPACK's dwconv
kernels.
"""

from __future__ import annotations

from math import gcd, prod

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.kernels import cost
from tvmopt.kernels.blocks import worth_threads
from tvmopt.kernels.conv_site import ConvSite
from tvmopt.kernels.depthwise_tile import DepthwiseConfig, DepthwiseTile
from tvmopt.kernels.rows import LINE_BYTES
from tvmopt.kernels.tile import Tile, panel_columns
from tvmopt.kernels.vector import bind, cast, loop, parameters, prim_func
from tvmopt.targets.description import CpuTarget

TILE_CYCLES = 10  # addresses and tests of one tile of integers
FLOAT_TILE_CYCLES = 4  # and of floats, beside the next tile's products; fitted on Zen 3, as are:
FLOAT_STEP_CYCLES = 0.6  # an elementwise step of one pixel
HIDDEN_STEPS = 2  # steps that cost nothing
SPARE_REGISTERS = 6  # a column, and what LLVM does not use; beyond, a line of taps takes
SPILL_CYCLES = 1.4  # so much longer for each pixel and each weight
SHOWN_MEMORY = 0.5  # share of the memory's time that does not hide; fitted within networks
STALL = 0.175  # of a line for each tap, with a stride: fewer sums are under way at once
WAY_BYTES = 4096  # of level 1: places so far apart are one; a page, on every CPU of that kind
LONG_LINE = 20  # output pixels of a line from which all channels of a tile follow one another
MAX_PIXELS = 7  # of a tile: their sums, three weights and a column fit any 16 registers
WIDE_PIXELS = 14  # of a tile of integers without stride: their sums and a column do
REGISTER_VALUES = 256  # the most float32 values that TVM leaves in registers
TALL = 3  # lines of taps up to which two registers of integers win: beyond, the code is too long
NARROW_STEPS = 3  # steps that rounding and packing stand for
CONVERTING = 3.5  # instructions of a cycle, where loads are converted; fitted on Zen 3


def applies(site: ConvSite) -> bool:
    """Say whether ``site`` is depthwise with one output for each input channel."""
    return site.groups == site.channels == site.out_channels and not site.planar


def config(site: ConvSite, target: CpuTarget) -> DepthwiseConfig:
    """Return the analytic choice for ``site``.

    A tile takes as many pixels of one register as divide the line best. Integers take as many
    pixels and two registers, one after the other: a column is converted once for all its pixels,
    and a tile's start is shared; without stride more sums than a multiply-add's latency needs hide
    the conversions behind each other. All measured on Zen 3.
    """
    lanes, out_width = min(target.lanes(32), site.channels), site.out_size[1]
    whole = site.dtype != "float32"
    vectors = 2 if whole and site.channels >= 2 * lanes and site.kernel[0] <= TALL else 1
    wide = WIDE_PIXELS if whole and site.strides[1] == 1 else MAX_PIXELS
    most = min(wide, out_width, REGISTER_VALUES // (vectors * lanes))
    pixels = min(range(1, most + 1), key=lambda p: (-(-out_width // p) * (p + 1.5), -p))
    return DepthwiseConfig(
        pixels=pixels, vectors=vectors, lanes=lanes, parallel=worth_threads(2 * site.macs)
    )


def cycles(site: ConvSite, how: DepthwiseConfig, target: CpuTarget) -> float:
    """Return the predicted cycles of one core: arithmetic and loads of all tiles, and memory."""
    out_h, out_w = site.out_size
    tiles = site.batch * out_h * -(-out_w // how.pixels)
    vectors = -(-site.channels // (how.lanes * how.vectors)) * how.vectors
    moved = prod(site.input_shape) * np.dtype(site.dtype).itemsize
    moved += prod(site.output_shape) * np.dtype(site.epilogue.dtype).itemsize
    tile = _float_tile if site.dtype == "float32" else _integer_tile
    work, memory = tiles * vectors * tile(site, how, target), cost.stream_cycles(moved, target)
    # Short lines are read a register of channels at a time, which no CPU fetches ahead; and where
    # other layers pass through level 2 between, half of it is what a layer finds there.
    near = moved <= (target.l2_bytes if out_w > LONG_LINE else target.l2_bytes // 2)
    return cost.CALL_CYCLES + max(work, memory, 0 if near else work + memory * SHOWN_MEMORY)


def _line_bound(site: ConvSite, how: DepthwiseConfig, target: CpuTarget) -> tuple[float, int]:
    """Return the least cycles of a line of taps, and the columns it loads."""
    kw = site.kernel[1]
    reach = (how.pixels - 1) * site.strides[1] + (kw - 1) * site.dilation[1] + 1
    columns = min(reach, how.pixels * kw)
    return max(how.pixels * kw / target.fma_per_cycle, (kw + columns) / 2), columns


def _float_tile(site: ConvSite, how: DepthwiseConfig, target: CpuTarget) -> float:
    """Return the cycles of one register of a tile; lines of taps outside of the image are none."""
    kw = site.kernel[1]
    line, _ = _line_bound(site, how, target)
    line += SPILL_CYCLES * max(0, how.pixels + kw + SPARE_REGISTERS - target.vector_registers)
    if site.strides[1] > 1:
        line *= 1 + STALL * (kw - 1)
    steps = max(0, len(site.epilogue.steps) - HIDDEN_STEPS)
    work = lines_inside(site) * line + FLOAT_TILE_CYCLES + FLOAT_STEP_CYCLES * how.pixels * steps
    again = fetched_again(site, how, target) * LINE_BYTES / cost.L2_BYTES_PER_CYCLE
    return work + SHOWN_MEMORY * again


def _integer_tile(site: ConvSite, how: DepthwiseConfig, target: CpuTarget) -> float:
    """Return the same for integers."""
    line, columns = _line_bound(site, how, target)
    line = max(line, (how.pixels * site.kernel[1] + 2 * columns) / CONVERTING) + 1
    steps = len(site.epilogue.steps) + NARROW_STEPS * (site.epilogue.output is not None)
    ends = TILE_CYCLES / how.vectors + how.pixels * (1 + cost.STEP_CYCLES * steps)
    return site.kernel[0] * line + ends


def fetched_again(site: ConvSite, how: DepthwiseConfig, target: CpuTarget) -> float:
    """Return the cache lines of input that level 1 cannot keep from one tile to the next.

    A tile reads one register of each pixel of its window. Pixels that lie a large power of two
    apart share few places of level 1, and a window of more lines than these hold is read anew.
    """
    if site.out_size[1] > LONG_LINE:
        return 0.0
    places = WAY_BYTES // max(gcd(site.pitch * 4, WAY_BYTES), LINE_BYTES)
    reach = (how.pixels - 1) * site.strides[1] + (site.kernel[1] - 1) * site.dilation[1] + 1
    lines = lines_inside(site) * min(reach, site.width)
    return lines if lines > places * (target.l1d_bytes // WAY_BYTES) else 0.0


def lines_inside(site: ConvSite) -> float:
    """Return how many of a window's lines of taps lie within the image, the mean of all windows."""
    (kh, _), top, step = site.kernel, site.pads[0], site.dilation[0]
    rows = np.arange(site.out_size[0])[:, None] * site.strides[0] - top + np.arange(kh) * step
    return float(np.mean(np.sum((rows >= 0) & (rows < site.height), axis=1)))


def pack(weight: np.ndarray, how: DepthwiseConfig) -> np.ndarray:
    """Return ``weight`` (c, kh, kw, 1) as one run of memory for each tile's channels.

    Side by side over all channels, the taps of a tile would lie as far apart as the input's pixels,
    often a multiple of 1 KiB, and take the places of these in level 1 (1.5 times as long).

    Returns:
        (blocks, kh, kw, channels of a tile), the last block's channels those that c ends with.
    """
    columns = panel_columns(weight.shape[0], _panel(how))
    return np.ascontiguousarray(weight[columns, ..., 0].transpose(0, 2, 3, 1))


def _panel(how: DepthwiseConfig) -> Tile:
    """Return the channels of a tile as those of a register tile."""
    return Tile(1, how.lanes * how.vectors, how.lanes)


def depthwise(site: ConvSite, how: DepthwiseConfig, name: str) -> tirx.PrimFunc:
    """Return ``name(x, w: pack(), *operands, y)``; shapes as the site says.

    Over integers it is ``name(x, w, b, [z], *operands, y)``, ``b`` as ``depthwise_start`` packs it,
    ``z`` the zero point, (1,), where that is known at run time alone.
    """
    assert applies(site), f"{site} is not depthwise with one output for each input channel"
    (out_h, out_w), c = site.out_size, site.channels
    width = how.lanes * how.vectors
    tiles, blocks = -(-out_w // how.pixels), -(-c // width)

    def body() -> None:
        whole = site.dtype != "float32"
        x, w, *operands, y = parameters(
            ("x", site.input_shape, site.dtype, site.input_rows),
            ("w", (blocks, *site.kernel, width)),
            *([("b", (1 + site.kernel[0] * site.shifted, c))] if whole else []),
            *([("z", (1,), site.zero_dtype)] if site.zero_dtype else []),
            *site.epilogue.parameters(site.output_shape),
        )
        start = operands.pop(0) if whole else None
        zero = bind(cast(operands.pop(0)[0], "float32")) if site.zero_dtype else None
        with loop(site.batch * out_h, parallel=how.parallel) as line:
            n, oh = bind(line // out_h), bind(line % out_h)
            # Long lines are read in runs of all channels; of short ones level 1 keeps a register's.
            outer, inner = (tiles, blocks) if out_w > LONG_LINE else (blocks, tiles)
            with T.serial(outer) as i, T.serial(inner) as j:
                t, block = (i, j) if out_w > LONG_LINE else (j, i)
                channel = bind(tirx.min(block * width, c - width)) if c % width else block * width
                first = t * how.pixels
                ow = bind(tirx.min(first, out_w - how.pixels)) if out_w % how.pixels else first
                tile = DepthwiseTile(site, how, x, w, (n, oh, ow, channel, block), zero)
                tile.start(start)
                if any(site.pads):
                    with T.If(tile.inside()):
                        with T.Then():
                            tile.compute(check=False)
                        with T.Else():
                            tile.compute(check=True)
                else:
                    tile.compute(check=False)
                tile.write(y, operands)

    return prim_func(name, body, {"tvmopt.macs": site.macs})
