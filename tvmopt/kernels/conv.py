"""Convolution as an implicit matrix product: any kernel, stride, padding, dilation and groups.

Rows are output pixels, columns output channels, and k runs over the taps of the kernel. In NHWC a
row of taps is one contiguous run of the input, so no im2col matrix is built; the input is copied
once into a zero-padded image where the convolution pads, and the loops need no tests.

Source: M. Dukhan, "The indirect convolution algorithm" (2019), for the register tile over pixels;
the contiguous runs in place of its pointers are derived here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.kernels import cost
from tvmopt.kernels.blocks import RowBlocks, worth_threads
from tvmopt.kernels.epilogue import STORE, Epilogue
from tvmopt.kernels.micro import Accumulators
from tvmopt.kernels.tile import Tile, choose_tile, panel_columns, panels
from tvmopt.kernels.vector import Expr, Vector, bind, loop, parameters, prefetch, prim_func
from tvmopt.targets.description import CpuTarget


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvSite:
    """A two-dimensional convolution, NHWC, with constant weights.

    Attributes:
        batch: Images.
        height: Rows of an input image.
        width: Columns of an input image.
        channels: Input channels.
        out_channels: Output channels.
        kernel: Taps (vertical, horizontal).
        strides: Steps (vertical, horizontal).
        pads: Zeros (top, left, bottom, right).
        dilation: Distance of neighbouring taps (vertical, horizontal).
        groups: Groups of channels that do not see each other.
        planar: Whether the input is NCHW instead, as the graph's own inputs are.
        epilogue: What follows the convolution.
    """

    batch: int
    height: int
    width: int
    channels: int
    out_channels: int
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    planar: bool = False
    epilogue: Epilogue = STORE

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width of the padded input."""
        top, left, bottom, right = self.pads
        return self.height + top + bottom, self.width + left + right

    @property
    def out_size(self) -> tuple[int, int]:
        """Height and width of the output."""
        spans = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True)]
        return (
            (self.padded[0] - spans[0]) // self.strides[0] + 1,
            (self.padded[1] - spans[1]) // self.strides[1] + 1,
        )

    @property
    def rows(self) -> int:
        """Output pixels of the whole batch: rows of the implicit matrix."""
        return self.batch * self.out_size[0] * self.out_size[1]

    @property
    def group_channels(self) -> int:
        """Input channels that one output channel reads."""
        return self.channels // self.groups

    @property
    def taps(self) -> int:
        """Products of one output element."""
        return self.kernel[0] * self.kernel[1] * self.group_channels

    @property
    def macs(self) -> int:
        """Multiply-accumulates, taps in the padding included."""
        return self.rows * self.out_channels * self.taps

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Shape of the input tensor."""
        n, h, w, c = self.batch, self.height, self.width, self.channels
        return (n, c, h, w) if self.planar else (n, h, w, c)

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """Shape of the output tensor."""
        return (self.batch, *self.out_size, self.out_channels)


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvConfig:
    """How a convolution is cut.

    Attributes:
        tile: The register tile: pixels by output channels.
        rows: Blocks of pixels; one block runs against all panels while it lies in level 2.
        prefetch: Whether the next panel is fetched ahead, for weights that outrun level 2.
        parallel: Whether blocks are shared out among threads.
    """

    tile: Tile
    rows: RowBlocks
    prefetch: bool
    parallel: bool


def config(site: ConvSite, target: CpuTarget) -> ConvConfig:
    """Return the analytic choice for ``site``."""
    tile = choose_tile(site.rows, site.out_channels // site.groups, target)
    weights = site.taps * site.out_channels * 4
    row_bytes = site.channels * site.strides[0] * site.strides[1] * 4
    return ConvConfig(
        tile=tile,
        rows=RowBlocks.choose(site.rows, tile.rows, row_bytes, weights, target),
        prefetch=weights > 2 * target.l2_bytes,
        parallel=worth_threads(site.macs),
    )


def cycles(site: ConvSite, how: ConvConfig, target: CpuTarget) -> float:
    """Return the predicted cycles of one core: products, padded copy, and the weights' way in."""
    count = how.rows.total * site.groups * len(panels(site.out_channels // site.groups, how.tile))
    tiles = cost.tile_cycles(how.tile, count, site.taps, site.epilogue, target)
    fetch = cost.stream_cycles(site.taps * site.out_channels * 4, target) * how.rows.count
    return (
        cost.CALL_CYCLES
        + max(tiles, fetch)
        + cost.stream_cycles(2 * _Image(site).scratch_bytes, target)
    )


def pack(weight: np.ndarray, groups: int, tile: Tile) -> np.ndarray:
    """Return ``weight`` (o, kh, kw, c / groups) as panels (p, kh, kw * c / groups, tile.width)."""
    o, kh, kw, c = weight.shape
    columns = panel_columns(o // groups, tile)
    cut = weight.reshape(groups, o // groups, kh, kw * c)[:, columns]
    return np.ascontiguousarray(cut.reshape(-1, tile.width, kh, kw * c).transpose(0, 2, 3, 1))


def conv(site: ConvSite, how: ConvConfig, name: str) -> tirx.PrimFunc:
    """Return ``name(x, w: panels of pack(), *operands, y)``; shapes as the site says."""
    tile, blocks = how.tile, how.rows
    per_group = len(panels(site.out_channels // site.groups, tile))
    count = site.groups * per_group
    image = _Image(site)
    taps = site.taps * tile.width

    def body() -> None:
        x, w, *operands, y = parameters(
            ("x", site.input_shape),
            ("w", (count, site.kernel[0], site.taps // site.kernel[0], tile.width)),
            *site.epilogue.parameters(site.output_shape),
            ("y", site.output_shape),
        )
        padded = image.copy(x, parallel=how.parallel)
        with loop(blocks.count * count, parallel=how.parallel) as task:
            block, panel = bind(task // count), bind(task % count)
            group = panel // per_group
            with T.serial(blocks.tiles(block)) as g:
                row = bind(blocks.first_row(block, g))
                pixels = image.pixels(row, tile.rows, group * site.group_channels)
                sums = Accumulators(tile)
                ahead = (panel + 1) * taps + g * (site.taps // blocks.per_block) * tile.width

                def run(offset: Expr, start: Expr, extent: int) -> None:
                    """Accumulate one contiguous run of taps."""
                    sums.accumulate(
                        extent,
                        lambda i, step: padded[pixels[i] + offset + step],
                        lambda step, v: sums.vector.load(
                            w, panel * taps + (start + step) * tile.width + v * tile.lanes
                        ),
                        (
                            lambda step: prefetch(
                                w, ahead + (start + step) // blocks.per_block * tile.width
                            )
                        )
                        if how.prefetch
                        else None,
                    )

                image.runs(run)
                size = site.out_channels // site.groups
                first = tirx.min(panel % per_group * tile.columns, size - tile.columns)
                column = bind(group * size + first)
                sums.write(
                    y, operands, site.epilogue, column, lambda i: (row + i) * site.out_channels
                )

    attrs = {"tvmopt.macs": site.macs, "tvmopt.scratch_bytes": image.scratch_bytes}
    return prim_func(name, body, attrs)


class _Image:
    """The input as the loops read it: NHWC, padded."""

    def __init__(self, site: ConvSite) -> None:
        self.site = site
        self.height, self.width = site.padded
        self.pitch = self.width * site.channels
        self.copied = any(site.pads) or site.planar

    @property
    def scratch_bytes(self) -> int:
        """Workspace for the padded copy, bytes."""
        return self.site.batch * self.height * self.pitch * 4 if self.copied else 0

    def copy(self, x: tirx.Buffer, *, parallel: bool) -> tirx.Buffer:
        """Emit the padded copy and return it, or the input itself where none is needed."""
        if not self.copied:
            return x
        site, (top, left, _, right) = self.site, self.site.pads
        out = T.alloc_buffer((site.batch * self.height * self.pitch,), "float32")
        with loop(site.batch * self.height, parallel=parallel) as line:
            start = bind(line * self.pitch)
            n, h = bind(line // self.height), bind(line % self.height - top)
            with T.If(tirx.all(h >= 0, h < site.height)):
                with T.Then():
                    _fill(out, start, left * site.channels)
                    self._copy_row(x, out, n, h, start + left * site.channels)
                    end = start + (left + site.width) * site.channels
                    _fill(out, end, right * site.channels)
                with T.Else():
                    _fill(out, start, self.pitch)
        return out

    def _copy_row(self, x: tirx.Buffer, out: tirx.Buffer, n: Expr, h: Expr, start: Expr) -> None:
        site = self.site
        if not site.planar:
            row = bind((n * site.height + h) * site.width * site.channels)
            _copy(x, out, row, start, site.width * site.channels)
            return
        with T.serial(site.width) as w:
            for c in range(site.channels):
                value = x[((n * site.channels + c) * site.height + h) * site.width + w]
                T.buffer_store(out, value, [start + w * site.channels + c])

    def pixels(self, row: Expr, count: int, channel: Expr) -> list[Expr]:
        """Return where the first tap of each of ``count`` output pixels from ``row`` lies."""
        site, (out_h, out_w) = self.site, self.site.out_size
        sh, sw = site.strides
        if site.kernel == (1, 1) and (sh, sw) == (1, 1) and not any(site.pads):
            return [(row + i) * site.channels + channel for i in range(count)]

        def place(r: Expr) -> Expr:
            image = r // (out_h * out_w) * (self.height * self.pitch)
            line = r % (out_h * out_w) // out_w * (sh * self.pitch)
            return image + line + r % out_w * (sw * site.channels) + channel

        if out_w % count == 0:  # a tile never crosses the end of a line
            first = bind(place(row))
            return [first + i * sw * site.channels for i in range(count)]
        return [bind(place(row + i)) for i in range(count)]

    def runs(self, emit: Callable[[Expr, Expr, int], None]) -> None:
        """Emit the loops over taps, each contiguous run of the input by one call of ``emit``.

        ``emit`` gets the run's offset from the pixel's first tap, its first tap and its length.
        """
        site, (kh, kw), (dh, dw) = self.site, self.site.kernel, self.site.dilation
        whole_line = kw == 1 or (dw == 1 and site.groups == 1)
        run = kw * site.group_channels if whole_line else site.group_channels
        lines = [(kh, dh * self.pitch), (1 if whole_line else kw, dw * site.channels)]
        with loop(lines[0][0]) as i, loop(lines[1][0]) as j:
            emit(
                bind(i * lines[0][1] + j * lines[1][1]),
                bind((i * lines[1][0] + j) * run),
                run,
            )


def _fill(out: tirx.Buffer, start: Expr, count: int) -> None:
    """Emit zeros."""
    with T.serial(count) as i:
        T.buffer_store(out, tirx.const(0.0, "float32"), [start + i])


def _copy(source: tirx.Buffer, out: tirx.Buffer, at: Expr, start: Expr, count: int) -> None:
    """Emit a copy, sixteen elements at a time, the last ones overlapping."""
    lanes = min(count, 16)
    vector = Vector(lanes)
    with T.serial(-(-count // lanes)) as i:
        place = i * lanes if count % lanes == 0 else bind(tirx.min(i * lanes, count - lanes))
        vector.store(out, vector.load(source, at + place), start + place)
