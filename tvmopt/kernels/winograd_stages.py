"""The three stages of a Winograd convolution over blocks of tiles, whatever they compute with.

Each tile's input is transformed into (m + 2)^2 places, each place is one matrix product over the
block's tiles, and the products are transformed back and stored through the epilogue.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.kernels.conv_site import ConvSite
from tvmopt.kernels.tile import Tile, panels
from tvmopt.kernels.vector import Expr, Vector, bind, loop
from tvmopt.kernels.winograd_transforms import Get, Put
from tvmopt.targets.description import CpuTarget

STRIDE_PAD = 16  # elements between places, so that their strides are no multiple of 4 KiB


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


def choose_block(count: int, weight_bytes: int, tile_bytes: int, target: CpuTarget) -> int:
    """Return how many tiles go through all stages together.

    Each block reads all weights again; its own data should stay beside them in level 2. Weights
    that outrun it are read more seldom, and a block's data stays in a share of level 3.

    Args:
        count: Tiles in all.
        weight_bytes: Bytes of the transformed weights.
        tile_bytes: Bytes of one tile's transformed inputs and products.
        target: The machine.
    """
    outrun = weight_bytes > 2 * target.l2_bytes
    held = max(target.l3_bytes // 8, 2 * target.l2_bytes) if outrun else target.l2_bytes // 2
    blocks = max(1, -(-count // max(held // tile_bytes, 8)))
    if outrun and blocks == 1:
        return count
    return -(-count // (blocks + blocks % 2))  # even, for two threads or a multiple


class Sums(Protocol):
    """One register tile of a place's products."""

    def value(self, i: int, v: int) -> Expr:
        """Return the v-th vector of row i."""
        ...


class Arithmetic(Protocol):
    """What the stages compute with.

    Attributes:
        moved: Type of a transformed input.
        products: Type of a product's sums.
        input_lanes: Channels that the input's transform takes at once.
        output_lanes: Channels that the output's transform takes at once.
    """

    moved: str
    products: str
    input_lanes: int
    output_lanes: int

    def read(self, x: tirx.Buffer, at: Expr, lanes: int) -> Expr:
        """Return the values of an input pixel."""
        ...

    def outside(self, lanes: int) -> Expr:
        """Return what stands for a pixel of the padding."""
        ...

    def enter(self, lanes: int, get: Get, put: Put) -> None:
        """Emit B^T d B."""
        ...

    def leave(self, lanes: int, get: Get, put: Put) -> None:
        """Emit A^T q A."""
        ...

    def multiply(
        self,
        rows: Callable[[int], Expr],
        moved: tirx.Buffer,
        w: tirx.Buffer,
        panel: Expr,
        share: tuple[Expr, int],
    ) -> Sums:
        """Emit the sums over channels of one register tile.

        Args:
            rows: Gives where row i begins in ``moved``.
            moved: Transformed inputs.
            w: Packed weights.
            panel: Number of the panel.
            share: Number of this tile among those of its panel, and how many there are: each
                fetches its part of the next panel ahead.
        """
        ...

    def finish(self, value: Expr, channel: Expr) -> Expr:
        """Return the accumulator that the epilogue begins with."""
        ...


class Stages:
    """The three stages over one block of tiles."""

    def __init__(self, site: ConvSite, how: WinogradConfig, arithmetic: Arithmetic) -> None:
        self.site, self.how, self.arithmetic = site, how, arithmetic
        self.edge = how.m + 2
        self.places = self.edge**2
        self.rows, self.columns = tiles(site, how.m)
        self.count = site.batch * self.rows * self.columns
        self.panels = len(panels(site.out_channels, how.tile))
        self.input_pitch = how.block * site.channels + STRIDE_PAD
        self.output_pitch = how.block * site.out_channels + STRIDE_PAD
        self.shared = how.parallel == "stages"

    @property
    def scratch_bytes(self) -> int:
        """Workspace of one block, bytes."""
        moved, products = (
            pitch * np.dtype(dtype).itemsize
            for pitch, dtype in (
                (self.input_pitch, self.arithmetic.moved),
                (self.output_pitch, self.arithmetic.products),
            )
        )
        return self.places * (moved + products)

    def emit(
        self, x: tirx.Buffer, w: tirx.Buffer, operands: list[tirx.Buffer], y: tirx.Buffer
    ) -> None:
        """Emit the convolution.

        Args:
            x: Flat input.
            w: Flat packed weights.
            operands: Flat operands of the epilogue.
            y: Flat output.
        """
        blocks = -(-self.count // self.how.block)
        with loop(blocks, parallel=self.how.parallel == "blocks") as block:
            first = bind(tirx.min(block * self.how.block, self.count - self.how.block))
            moved = T.alloc_buffer((self.places * self.input_pitch,), self.arithmetic.moved)
            products = T.alloc_buffer((self.places * self.output_pitch,), self.arithmetic.products)
            self.input(x, moved, first)
            self.multiply(moved, w, products)
            self.output(products, operands, y, first)

    def input(self, x: tirx.Buffer, moved: tirx.Buffer, first: Expr) -> None:
        """Emit B^T d B of each tile: ``moved[place, tile, c]``."""
        site, edge = self.site, self.edge
        top, left = site.pads[:2]
        with loop(self.how.block, parallel=self.shared) as t:
            n, y0, x0 = self._corner(first + t)
            y0, x0 = bind(y0 - top), bind(x0 - left)
            inside = tirx.all(y0 >= 0, y0 + edge <= site.height, x0 >= 0, x0 + edge <= site.width)

            def transform(*, check: bool) -> None:
                lanes = self.arithmetic.input_lanes
                _vectors(site.channels, lanes, lambda size, c: one(size, c, check=check))

            def one(lanes: int, c: Expr, *, check: bool) -> None:
                def pixel(i: int, j: int) -> Expr:
                    at = ((n * site.height + y0 + i) * site.width + x0 + j) * site.pitch + c
                    value = self.arithmetic.read(x, at, lanes)
                    if check:
                        there = tirx.all(
                            y0 + i >= 0, y0 + i < site.height, x0 + j >= 0, x0 + j < site.width
                        )
                        value = tirx.if_then_else(there, value, self.arithmetic.outside(lanes))
                    return bind(value)

                def put(i: int, j: int, value: Expr) -> None:
                    at = (i * edge + j) * self.input_pitch + t * site.channels + c
                    Vector(lanes).store(moved, value, at)

                self.arithmetic.enter(lanes, pixel, put)

            with T.If(inside):
                with T.Then():
                    transform(check=False)
                with T.Else():
                    transform(check=True)

    def multiply(self, moved: tirx.Buffer, w: tirx.Buffer, products: tirx.Buffer) -> None:
        """Emit ``products[place, tile, o] = sum_c moved[place, tile, c] * w[place, c, o]``."""
        site, how, tile = self.site, self.how, self.how.tile
        groups = -(-how.block // tile.rows)
        vector = Vector(tile.lanes)
        with loop(self.places * self.panels, parallel=self.shared) as task:
            place, panel = bind(task // self.panels), bind(task % self.panels)
            source, column = place * self.input_pitch, panel * tile.columns
            column = bind(tirx.min(column, site.out_channels - tile.columns))
            with T.serial(groups) as g:
                row = bind(tirx.min(g * tile.rows, how.block - tile.rows))
                sums = self.arithmetic.multiply(
                    lambda i: source + (row + i) * site.channels, moved, w, task, (g, groups)
                )
                for i in range(tile.rows):
                    at = place * self.output_pitch + (row + i) * site.out_channels + column
                    for v, start in enumerate(tile.starts):
                        vector.store(products, sums.value(i, v), at + start)

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
                lanes = self.arithmetic.output_lanes
                _vectors(site.out_channels, lanes, lambda size, o: one(size, o, check=check))

            def one(lanes: int, o: Expr, *, check: bool) -> None:
                vector = Vector(lanes)

                def product(i: int, j: int) -> Expr:
                    place = i * self.edge + j
                    at = place * self.output_pitch + t * site.out_channels + o
                    return bind(vector.load(products, at))

                def put(i: int, j: int, value: Expr) -> None:
                    pixel = (n * height + y0 + i) * width + x0 + j

                    place = (pixel, o, site.out_channels)

                    def write() -> None:
                        total = self.arithmetic.finish(value, o)
                        site.epilogue.store(vector, total, operands, y, place)

                    if not check:
                        write()
                        return
                    with T.If(tirx.all(y0 + i < height, x0 + j < width)), T.Then():
                        write()

                self.arithmetic.leave(lanes, product, put)

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


def _vectors(channels: int, most: int, emit: Callable[[int, Expr], None]) -> None:
    """Emit a loop over the vectors of a pixel's channels, the last one overlapping."""
    lanes = min(most, channels)
    with T.serial(-(-channels // lanes)) as i:
        emit(lanes, bind(tirx.min(i * lanes, channels - lanes)))
