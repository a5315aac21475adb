"""Transposed convolution as a matrix product and a gather, NHWC.

Every input pixel makes all the taps it will ever contribute, ``cols[pixel, kh, kw, o]``, in one
matrix product; then every output pixel adds up those that land on it. No product is spent on zeros
between the input's pixels.

Source: V. Dumoulin and F. Visin, "A guide to convolution arithmetic for deep learning" (2016), for
which taps land where; the gather in place of a scatter is derived here: threads never meet.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.kernels import cost
from tvmopt.kernels.blocks import worth_threads
from tvmopt.kernels.epilogue import STORE, Epilogue
from tvmopt.kernels.micro import Accumulators
from tvmopt.kernels.tile import Tile, choose_tile, panel_columns, panels
from tvmopt.kernels.vector import Expr, Vector, bind, loop, parameters, prim_func, registers
from tvmopt.targets.description import CpuTarget

TEST_CYCLES = 0.5  # to test whether a tap lands on a pixel, one vector; measured on Zen 3
LAND_CYCLES = 2  # to add one that does
FUNCTION_CYCLES = 12  # of an elementary function of one vector
ARITHMETIC = frozenset({"add", "sub", "mul", "scale", "div", "max", "min"})


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvTransposeSite:
    """A two-dimensional transposed convolution, NHWC, with constant weights.

    Attributes:
        batch: Images.
        height: Rows of an input image.
        width: Columns of an input image.
        channels: Input channels.
        out_channels: Output channels.
        kernel: Taps (vertical, horizontal).
        strides: Output steps of an input step (vertical, horizontal).
        pads: Rows and columns cut off the output (top, left).
        dilation: Distance of neighbouring taps (vertical, horizontal).
        groups: Groups of channels that do not see each other.
        out_size: Height and width of the output.
        epilogue: What follows the convolution.
    """

    batch: int
    height: int
    width: int
    channels: int
    out_channels: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    out_size: tuple[int, int]
    epilogue: Epilogue = STORE

    @property
    def pixels(self) -> int:
        """Input pixels of the batch: rows of the product."""
        return self.batch * self.height * self.width

    @property
    def group_columns(self) -> int:
        """Columns of one group's product."""
        return self.kernel[0] * self.kernel[1] * (self.out_channels // self.groups)

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return self.pixels * self.channels * self.group_columns

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Shape of the input tensor."""
        return (self.batch, self.height, self.width, self.channels)

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """Shape of the output tensor."""
        return (self.batch, *self.out_size, self.out_channels)


@dataclass(frozen=True, kw_only=True, slots=True)
class ConvTransposeConfig:
    """How a transposed convolution is cut.

    Attributes:
        tile: The register tile of the product: input pixels by columns.
        lanes: Channels that the gather takes at once.
        parallel: Whether threads share both stages.
    """

    tile: Tile
    lanes: int
    parallel: bool


def config(site: ConvTransposeSite, target: CpuTarget) -> ConvTransposeConfig:
    """Return the analytic choice for ``site``."""
    return ConvTransposeConfig(
        tile=choose_tile(site.pixels, site.group_columns, target),
        lanes=min(target.lanes(32), site.out_channels // site.groups),
        parallel=worth_threads(site.macs),
    )


def cycles(site: ConvTransposeSite, how: ConvTransposeConfig, target: CpuTarget) -> float:
    """Return the predicted cycles of one core: the product's tiles, and the gather."""
    panel_count = site.groups * len(panels(site.group_columns, how.tile))
    count = panel_count * -(-site.pixels // how.tile.rows)
    tiles = cost.tile_cycles(how.tile, count, site.channels // site.groups, STORE, target)
    taps = site.kernel[0] * site.kernel[1]
    landing = taps / (site.strides[0] * site.strides[1])
    vectors = prod(site.output_shape) / how.lanes
    steps = sum(
        cost.STEP_CYCLES if step.op in ARITHMETIC else FUNCTION_CYCLES
        for step in site.epilogue.steps
    )
    gather = vectors * (taps * TEST_CYCLES + landing * LAND_CYCLES + steps)
    return cost.CALL_CYCLES + tiles + gather


def pack(weight: np.ndarray, groups: int, tile: Tile) -> np.ndarray:
    """Return ``weight`` (o / groups, kh, kw, c) as panels (p, c / groups, tile.width)."""
    c = weight.shape[3]
    columns = weight.transpose(3, 1, 2, 0).reshape(groups, c // groups, -1)
    cut = columns[:, :, panel_columns(columns.shape[2], tile)]
    panels_first = cut.transpose(0, 2, 1, 3)
    return np.ascontiguousarray(panels_first.reshape(-1, c // groups, tile.width))


def conv_transpose(site: ConvTransposeSite, how: ConvTransposeConfig, name: str) -> tirx.PrimFunc:
    """Return ``name(x, w: panels of pack(), *operands, y)``; shapes as the site says."""
    per_group = len(panels(site.group_columns, how.tile))

    def body() -> None:
        x, w, *operands, y = parameters(
            ("x", site.input_shape),
            ("w", (site.groups * per_group, site.channels // site.groups, how.tile.width)),
            *site.epilogue.parameters(site.output_shape),
        )
        cols = T.alloc_buffer((site.pixels * site.groups * site.group_columns,), "float32")
        _multiply(site, how, x, w, cols)
        _gather(site, how, cols, operands, y)

    scratch = site.pixels * site.groups * site.group_columns * 4
    return prim_func(name, body, {"tvmopt.macs": site.macs, "tvmopt.scratch_bytes": scratch})


def _multiply(
    site: ConvTransposeSite,
    how: ConvTransposeConfig,
    x: tirx.Buffer,
    w: tirx.Buffer,
    cols: tirx.Buffer,
) -> None:
    """Emit ``cols[pixel, group, kh, kw, o] = sum_c x[pixel, c] * w[c, kh, kw, o]``."""
    tile, depth = how.tile, site.channels // site.groups
    per_group = len(panels(site.group_columns, tile))
    pitch = site.groups * site.group_columns
    with loop(site.groups * per_group, parallel=how.parallel) as panel:
        group = bind(panel // per_group)
        start = tirx.min(panel % per_group * tile.columns, site.group_columns - tile.columns)
        column = bind(group * site.group_columns + start)
        with T.serial(-(-site.pixels // tile.rows)) as g:
            row = bind(tirx.min(g * tile.rows, site.pixels - tile.rows))
            sums = Accumulators(tile)
            sums.accumulate(
                depth,
                lambda i, c: x[(row + i) * site.channels + group * depth + c],
                lambda c, v: sums.vector.load(w, (panel * depth + c) * tile.width + v * tile.lanes),
            )
            sums.write(cols, [], STORE, column, lambda i: (row + i) * pitch)


def _gather(
    site: ConvTransposeSite,
    how: ConvTransposeConfig,
    cols: tirx.Buffer,
    operands: list[tirx.Buffer],
    y: tirx.Buffer,
) -> None:
    """Emit the sum of what lands on each output pixel, and the epilogue."""
    (out_h, out_w), size = site.out_size, site.out_channels // site.groups
    vector = Vector(how.lanes)
    with loop(site.batch * out_h, parallel=how.parallel) as line:
        n, oh = bind(line // out_h), bind(line % out_h)
        loops = T.serial(out_w), T.serial(site.groups), T.serial(-(-size // how.lanes))
        with loops[0] as ow, loops[1] as group, loops[2] as block:
            o = bind(tirx.min(block * how.lanes, size - how.lanes))
            total = registers(how.lanes)
            vector.store(total, vector.splat(0.0), 0)
            for kh in range(site.kernel[0]):
                for kw in range(site.kernel[1]):
                    _tap(site, vector, cols, total, (n, oh, ow), (kh, kw), (group, o))
            place = (line * out_w + ow, group * size + o, site.out_channels)
            site.epilogue.store(vector, vector.load(total, 0), operands, y, place)


def _tap(
    site: ConvTransposeSite,
    vector: Vector,
    cols: tirx.Buffer,
    total: tirx.Buffer,
    out: tuple[Expr, Expr, Expr],
    tap: tuple[int, int],
    where: tuple[Expr, Expr],
) -> None:
    """Emit ``total += cols[...]`` where that tap of some input pixel lands on this output pixel."""
    n, oh, ow = out
    (kh, kw), (group, o) = tap, where
    size = site.out_channels // site.groups
    down = bind(oh + site.pads[0] - kh * site.dilation[0])
    across = bind(ow + site.pads[1] - kw * site.dilation[1])
    (sh, sw) = site.strides
    lands = tirx.all(
        down >= 0,
        down < site.height * sh,
        down % sh == 0,
        across >= 0,
        across < site.width * sw,
        across % sw == 0,
    )
    with T.If(lands), T.Then():
        pixel = (n * site.height + down // sh) * site.width + across // sw
        place = (group * site.kernel[0] + kh) * site.kernel[1] + kw
        at = pixel * (site.groups * site.group_columns) + place * size + o
        vector.store(total, vector.load(total, 0) + vector.load(cols, at), 0)
