"""Winograd convolution F(m x m, 3 x 3) for stride 1: fewer multiplications, NHWC.

The output is cut into m x m tiles. Each takes its (m + 2) x (m + 2) input through B^T d B, is
multiplied by the transformed weights as one matrix product for each of the (m + 2)^2 places, and
comes back through A^T q A. F(4, 3) needs 36 products where the direct form needs 144, F(2, 3) 16
where it needs 36.

Source: A. Lavin and S. Gray, "Fast algorithms for convolutional neural networks", CVPR 2016, for
the algorithm and its matrices. Blocks of tiles in level 2, and the padded strides that keep
the places from sharing cache sets, are derived here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.kernels import cost
from tvmopt.kernels.blocks import worth_threads
from tvmopt.kernels.conv_site import ConvSite
from tvmopt.kernels.epilogue import STORE, Operand
from tvmopt.kernels.micro import Accumulators
from tvmopt.kernels.tile import Tile, choose_tile, panel_columns, panels
from tvmopt.kernels.vector import Expr, Vector, bind, loop, parameters, prefetch, prim_func
from tvmopt.kernels.winograd_transforms import transform_input, transform_output, transform_weight
from tvmopt.targets.description import CpuTarget

TRANSFORM_CYCLES = {2: 60, 4: 180}  # of one tile, one vector of channels; measured on Zen 3
STRIDE_PAD = 16  # floats between places, so that their strides are no multiple of 4 KiB


@dataclass(frozen=True, kw_only=True, slots=True)
class WinogradConfig:
    """How a Winograd convolution is cut.

    Attributes:
        m: Edge of an output tile, 2 or 4.
        block: Tiles that go through all three stages together.
        tile: The register tile of the products: tiles by output channels.
        lanes: Channels that a transform takes at once.
        parallel: What threads share out: whole blocks, the loops of each stage, or nothing.
        prefetch: Whether the next panel is fetched ahead, for weights that outrun level 2.
    """

    m: int
    block: int
    tile: Tile
    lanes: int
    parallel: str
    prefetch: bool


def applies(site: ConvSite) -> bool:
    """Say whether ``site`` is a dense 3x3 convolution of stride 1."""
    return (
        site.kernel == (3, 3)
        and site.strides == (1, 1)
        and site.dilation == (1, 1)
        and site.groups == 1
        and not site.planar
    )


def tiles(site: ConvSite, m: int) -> tuple[int, int]:
    """Return how many tiles an image has (vertically, horizontally)."""
    return -(-site.out_size[0] // m), -(-site.out_size[1] // m)


def config(site: ConvSite, m: int, target: CpuTarget) -> WinogradConfig:
    """Return the analytic choice for ``site`` with output tiles of edge ``m``."""
    places = (m + 2) ** 2
    count = site.batch * tiles(site, m)[0] * tiles(site, m)[1]
    weights = places * site.channels * site.out_channels * 4
    block = count
    if weights <= 2 * target.l2_bytes:
        # Each block reads all weights again; its own data should stay beside them in level 2.
        room = target.l2_bytes // 2 // (places * (site.channels + site.out_channels) * 4)
        blocks = max(1, -(-count // max(room, 8)))
        block = -(-count // (blocks + blocks % 2))  # even, for two threads or a multiple
    several = -(-count // block) > 1
    worth = worth_threads(site.macs)
    return WinogradConfig(
        m=m,
        block=block,
        tile=choose_tile(block, site.out_channels, target),
        lanes=target.lanes(32),
        parallel="" if not worth else "blocks" if several else "stages",
        prefetch=weights > 2 * target.l2_bytes,
    )


def cycles(site: ConvSite, how: WinogradConfig, target: CpuTarget) -> float:
    """Return the predicted cycles of one core: products, transforms and the weights' way in."""
    places = (how.m + 2) ** 2
    count = site.batch * tiles(site, how.m)[0] * tiles(site, how.m)[1]
    blocks = -(-count // how.block)
    groups = places * blocks * -(-how.block // how.tile.rows)
    panel_count = len(panels(site.out_channels, how.tile))
    products = cost.tile_cycles(how.tile, groups * panel_count, site.channels, STORE, target)
    vectors = count * (-(-site.channels // how.lanes) + -(-site.out_channels // how.lanes))
    weights = places * site.channels * site.out_channels * 4
    fetch = cost.weight_cycles(weights, blocks, target)
    transforms = vectors * TRANSFORM_CYCLES[how.m]
    return cost.CALL_CYCLES + max(products, fetch) + transforms


def pack(weight: np.ndarray, how: WinogradConfig) -> np.ndarray:
    """Return ``weight`` (o, 3, 3, c) as transformed panels ((m + 2)^2, p, c, tile.width)."""
    moved = transform_weight(weight, how.m)
    cut = moved[:, :, panel_columns(weight.shape[0], how.tile)]
    return np.ascontiguousarray(cut.transpose(0, 2, 1, 3))


def winograd(site: ConvSite, how: WinogradConfig, name: str) -> tirx.PrimFunc:
    """Return ``name(x, w: panels of pack(), *operands, y)``; shapes as the site says."""
    assert applies(site), f"{site} is no dense 3x3 convolution of stride 1"
    stages = _Stages(site, how)
    blocks = -(-stages.count // how.block)

    def body() -> None:
        x, w, *operands, y = parameters(
            ("x", site.input_shape),
            ("w", (stages.places, stages.panels, site.channels, how.tile.width)),
            *site.epilogue.parameters(site.output_shape),
        )
        with loop(blocks, parallel=how.parallel == "blocks") as block:
            first = bind(tirx.min(block * how.block, stages.count - how.block))
            moved = T.alloc_buffer((stages.places * stages.input_pitch,), "float32")
            products = T.alloc_buffer((stages.places * stages.output_pitch,), "float32")
            stages.input(x, moved, first)
            stages.multiply(moved, w, products)
            stages.output(products, operands, y, first)

    scratch = stages.places * (stages.input_pitch + stages.output_pitch) * 4
    return prim_func(name, body, {"tvmopt.macs": site.macs, "tvmopt.scratch_bytes": scratch})


class _Stages:
    """The three stages over one block of tiles."""

    def __init__(self, site: ConvSite, how: WinogradConfig) -> None:
        self.site, self.how = site, how
        self.edge = how.m + 2
        self.places = self.edge**2
        self.rows, self.columns = tiles(site, how.m)
        self.count = site.batch * self.rows * self.columns
        self.panels = len(panels(site.out_channels, how.tile))
        self.input_pitch = how.block * site.channels + STRIDE_PAD
        self.output_pitch = how.block * site.out_channels + STRIDE_PAD
        self.shared = how.parallel == "stages"

    def input(self, x: tirx.Buffer, moved: tirx.Buffer, first: Expr) -> None:
        """Emit B^T d B of each tile: ``moved[place, tile, c]``."""
        site, edge = self.site, self.edge
        top, left = site.pads[:2]
        with loop(self.how.block, parallel=self.shared) as t:
            n, y0, x0 = self._corner(first + t)
            y0, x0 = bind(y0 - top), bind(x0 - left)
            inside = tirx.all(y0 >= 0, y0 + edge <= site.height, x0 >= 0, x0 + edge <= site.width)

            def transform(*, check: bool) -> None:
                self._vectors(site.channels, lambda vector, c: one(vector, c, check=check))

            def one(vector: Vector, c: Expr, *, check: bool) -> None:
                def pixel(i: int, j: int) -> Expr:
                    at = ((n * site.height + y0 + i) * site.width + x0 + j) * site.channels + c
                    value = vector.load(x, at)
                    if check:
                        there = tirx.all(
                            y0 + i >= 0, y0 + i < site.height, x0 + j >= 0, x0 + j < site.width
                        )
                        value = tirx.if_then_else(there, value, vector.splat(0.0))
                    return bind(value)

                def put(i: int, j: int, value: Expr) -> None:
                    place = i * edge + j
                    vector.store(moved, value, place * self.input_pitch + t * site.channels + c)

                transform_input(self.how.m, vector, pixel, put)

            with T.If(inside):
                with T.Then():
                    transform(check=False)
                with T.Else():
                    transform(check=True)

    def multiply(self, moved: tirx.Buffer, w: tirx.Buffer, products: tirx.Buffer) -> None:
        """Emit ``products[place, tile, o] = sum_c moved[place, tile, c] * w[place, c, o]``."""
        site, how, tile = self.site, self.how, self.how.tile
        groups = -(-how.block // tile.rows)
        size = site.channels * tile.width
        with loop(self.places * self.panels, parallel=self.shared) as task:
            place, panel = bind(task // self.panels), bind(task % self.panels)
            source, column = place * self.input_pitch, panel * tile.columns
            column = bind(tirx.min(column, site.out_channels - tile.columns))
            with T.serial(groups) as g:
                row = bind(tirx.min(g * tile.rows, how.block - tile.rows))
                sums = Accumulators(tile)
                ahead = (task + 1) * size + g * (site.channels // groups) * tile.width
                sums.accumulate(
                    site.channels,
                    lambda i, c: moved[source + (row + i) * site.channels + c],
                    lambda c, v: sums.vector.load(w, task * size + c * tile.width + v * tile.lanes),
                    (lambda c: prefetch(w, ahead + c // groups * tile.width, tile.width))
                    if how.prefetch
                    else None,
                )
                for i in range(tile.rows):
                    at = place * self.output_pitch + (row + i) * site.out_channels + column
                    for v, start in enumerate(tile.starts):
                        sums.vector.store(products, sums.value(i, v), at + start)

    def output(
        self, products: tirx.Buffer, operands: list[tirx.Buffer], y: tirx.Buffer, first: Expr
    ) -> None:
        """Emit the epilogue of A^T q A of each tile."""
        site, m = self.site, self.how.m
        height, width = site.out_size
        with loop(self.how.block, parallel=self.shared) as t:
            n, y0, x0 = self._corner(first + t)
            y0, x0 = bind(y0), bind(x0)

            def transform(*, check: bool) -> None:
                self._vectors(site.out_channels, lambda vector, o: one(vector, o, check=check))

            def one(vector: Vector, o: Expr, *, check: bool) -> None:
                def product(i: int, j: int) -> Expr:
                    place = i * self.edge + j
                    at = place * self.output_pitch + t * site.out_channels + o
                    return bind(vector.load(products, at))

                def put(i: int, j: int, value: Expr) -> None:
                    at = ((n * height + y0 + i) * width + x0 + j) * site.out_channels + o

                    def load(number: int, kind: Operand) -> Expr:
                        return vector.load(operands[number], o if kind is Operand.CHANNEL else at)

                    def write() -> None:
                        vector.store(y, site.epilogue.apply(vector, value, load), at)

                    if not check:
                        write()
                        return
                    with T.If(tirx.all(y0 + i < height, x0 + j < width)), T.Then():
                        write()

                transform_output(m, vector, product, put)

            if height % m == 0 and width % m == 0:
                transform(check=False)
                return
            with T.If(tirx.all(y0 + m <= height, x0 + m <= width)):
                with T.Then():
                    transform(check=False)
                with T.Else():
                    transform(check=True)

    def _corner(self, tile: Expr) -> tuple[Expr, Expr, Expr]:
        """Return image, first row and first column of a tile in the output."""
        per_image = self.rows * self.columns
        n, place = bind(tile // per_image), bind(tile % per_image)
        return n, place // self.columns * self.how.m, place % self.columns * self.how.m

    def _vectors(self, channels: int, emit: Callable[[Vector, Expr], None]) -> None:
        """Emit a loop over the vectors of a pixel's channels, the last one overlapping."""
        vector = Vector(min(self.how.lanes, channels))
        with T.serial(-(-channels // vector.lanes)) as i:
            emit(vector, bind(tirx.min(i * vector.lanes, channels - vector.lanes)))
