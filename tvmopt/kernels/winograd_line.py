"""Winograd's convolution along one axis, for kernels 1 x K and K x 1 of stride 1, NHWC.

A line of the output is cut into tiles of m pixels. Each takes its n = m + r - 1 input pixels
through B^T, is multiplied by the transformed weights as one matrix product for each of the n
places, and comes back through A^T: m * r multiplications become n. A kernel of up to r taps is one
segment. A longer one is cut into segments of r = m taps, whose inputs lie whole tiles apart: a
tile's transform then serves every segment, and the sum over segments is part of the products, whose
rows overlap in memory.

Source: for the transforms see ``toom_cook``. That segments as long as the output tile share their
transforms, and the overlapping rows, are derived here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.kernels import cost
from tvmopt.kernels.blocks import worth_threads
from tvmopt.kernels.conv_site import ConvSite
from tvmopt.kernels.epilogue import STORE
from tvmopt.kernels.line_products import Products, each_vector, either
from tvmopt.kernels.tile import Tile, choose_tile, panel_columns, panels
from tvmopt.kernels.toom_cook import POINTS, apply, transforms
from tvmopt.kernels.vector import Expr, Vector, bind, loop, parameters, prim_func
from tvmopt.targets.description import CpuTarget

EDGES = (2, 4, 6)  # output pixels of a tile


@dataclass(frozen=True, kw_only=True, slots=True)
class LineConfig:
    """How a convolution along a line is cut.

    Attributes:
        m: Output pixels of a tile, at least 2.
        taps: Taps of a segment, r; m where there are several segments.
        segments: Segments of the kernel; the last is filled up with zeros.
        block: Rows of the products that go through all three stages together.
        chunk: Segments that are summed at once; divides ``segments``.
        tile: The register tile of the products: rows by output channels.
        lanes: Channels that a transform takes at once.
        parallel: What threads share out: whole blocks, the loops of each stage, or nothing.
        prefetch: Whether the next weights are fetched ahead.
    """

    m: int
    taps: int
    segments: int
    block: int
    chunk: int
    tile: Tile
    lanes: int
    parallel: str
    prefetch: bool

    @property
    def places(self) -> int:
        """Products of a tile, n."""
        return self.m + self.taps - 1


def applies(site: ConvSite) -> bool:
    """Say whether ``site`` is a dense convolution of stride 1 along one axis."""
    line = _Line(site)
    return (
        min(site.kernel) == 1
        and line.taps > 1
        and site.strides == (1, 1)
        and site.dilation == (1, 1)
        and site.groups == 1
        and not site.planar
        and not line.pads_across
    )


def config(site: ConvSite, m: int, target: CpuTarget) -> LineConfig:
    """Return the analytic choice for ``site`` with output tiles of ``m`` pixels."""
    line = _Line(site)
    whole = m + line.taps - 2 <= len(POINTS)
    taps = line.taps if whole else m
    segments = -(-line.taps // taps)
    rows, places = line.rows(m, segments), m + taps - 1
    weights = places * segments * site.channels * site.out_channels * 4
    block = rows
    if weights <= 2 * target.l2_bytes:
        # Each block reads all weights again; its own data should stay beside them in level 2.
        room = target.l2_bytes // 2 // (places * (site.channels + site.out_channels) * 4)
        blocks = max(1, -(-rows // max(room, 8)))
        block = -(-rows // (blocks + blocks % 2))  # even, for two threads or a multiple
    tile = choose_tile(block, site.out_channels, target, k=min(segments * site.channels, 4096))
    worth, several = worth_threads(site.macs), -(-rows // block) > 1
    return LineConfig(
        m=m,
        taps=taps,
        segments=segments,
        block=block,
        chunk=_chunk(segments, site.channels * tile.width * 4, target),
        tile=tile,
        lanes=target.lanes(32),
        parallel="" if not worth else "blocks" if several else "stages",
        prefetch=(weights > target.l1d_bytes and not several) or weights > 2 * target.l2_bytes,
    )


def _chunk(segments: int, segment_bytes: int, target: CpuTarget) -> int:
    """Return the most segments whose panel stays in a quarter of level 2 for all its tiles."""
    fits = [
        count
        for count in range(1, segments + 1)
        if segments % count == 0 and count * segment_bytes <= target.l2_bytes // 4
    ]
    return max(fits, default=1)


def cycles(site: ConvSite, how: LineConfig, target: CpuTarget) -> float:
    """Return the predicted cycles of one core: products, transforms and the weights' way in."""
    rows = _Line(site).rows(how.m, how.segments)
    blocks = -(-rows // how.block)
    groups = how.places * blocks * -(-how.block // how.tile.rows)
    count = groups * len(panels(site.out_channels, how.tile)) * (how.segments // how.chunk)
    steps = how.chunk * site.channels
    products = cost.tile_cycles(how.tile, count, steps, STORE, target)
    weights = how.places * how.segments * site.channels * site.out_channels * 4
    fetch = cost.weight_cycles(weights, blocks, target)
    matrices = transforms(how.m, how.taps)
    inputs = rows * -(-site.channels // how.lanes)
    outputs = rows * -(-site.out_channels // how.lanes)
    # Two elementwise steps are issued in a cycle; each value is stored and loaded once.
    arithmetic = inputs * np.count_nonzero(matrices.input) / 2
    arithmetic += outputs * np.count_nonzero(matrices.output) / 2
    held = 4 * how.places * how.block * (site.channels + site.out_channels)
    moved = blocks * 2 * cost.stream_cycles(held, target)
    images = cost.image_cycles(*site.image_bytes, target)
    return cost.CALL_CYCLES + max(products, fetch) + arithmetic + moved + images


def transform_weight(weight: np.ndarray, m: int, taps: int) -> np.ndarray:
    """Return G g of every segment, rounded once to float32: (places, segments * c, o).

    Args:
        weight: (o, kh, kw, c), one of kh and kw is 1.
        m: Output pixels of a tile.
        taps: Taps of a segment.
    """
    o, c = weight.shape[0], weight.shape[3]
    line = weight.reshape(o, -1, c)
    segments = -(-line.shape[1] // taps)
    filled = np.zeros((o, segments * taps, c))
    filled[:, : line.shape[1]] = line
    across = filled.reshape(o, segments, taps, c).transpose(2, 1, 3, 0).reshape(taps, -1)
    moved = transforms(m, taps).weight @ across
    return moved.astype(np.float32).reshape(m + taps - 1, segments * c, o)


def pack(weight: np.ndarray, how: LineConfig) -> np.ndarray:
    """Return ``weight`` (o, kh, kw, c) as panels (places, p, segments * c, tile.width)."""
    moved = transform_weight(weight, how.m, how.taps)
    cut = moved[:, :, panel_columns(weight.shape[0], how.tile)]
    return np.ascontiguousarray(cut.transpose(0, 2, 1, 3))


def winograd_line(site: ConvSite, how: LineConfig, name: str) -> tirx.PrimFunc:
    """Return ``name(x, w: panels of pack(), *operands, y)``; shapes as the site says."""
    assert applies(site), f"{site} is no dense convolution of stride 1 along one axis"
    stages = _Stages(site, how)
    products = stages.products
    blocks = -(-stages.rows // how.block)

    def body() -> None:
        x, w, *operands, y = parameters(
            ("x", site.input_shape, "float32", site.input_rows),
            ("w", (how.places, products.panels, products.k, how.tile.width)),
            *site.epilogue.parameters(site.output_shape),
        )
        with loop(blocks, parallel=how.parallel == "blocks") as block:
            first = bind(tirx.min(block * how.block, stages.rows - how.block))
            moved = T.alloc_buffer((how.places * products.input_pitch,), "float32")
            summed = T.alloc_buffer((how.places * products.output_pitch,), "float32")
            stages.input(x, moved, first)
            products.emit(moved, w, summed)
            stages.output(summed, operands, y, first)

    scratch = how.places * (products.input_pitch + products.output_pitch) * 4
    return prim_func(name, body, {"tvmopt.macs": site.macs, "tvmopt.scratch_bytes": scratch})


class _Line:
    """The axis that the kernel runs along, and the lines that lie across it."""

    def __init__(self, site: ConvSite) -> None:
        self.site = site
        self.axis = 0 if site.kernel[1] == 1 else 1
        self.taps = site.kernel[self.axis]
        self.before = site.pads[self.axis]
        self.pads_across = site.pads[1 - self.axis] or site.pads[3 - self.axis]
        self.length = (site.height, site.width)[self.axis]
        self.out_length = site.out_size[self.axis]
        self.across = (site.height, site.width)[1 - self.axis]
        self.lines = site.batch * self.across

    def pitch(self, m: int, segments: int) -> int:
        """Return the rows of one line: a tile each, and the inputs that its last segments read."""
        return -(-self.out_length // m) + segments - 1

    def rows(self, m: int, segments: int) -> int:
        """Return the rows of the products; those between two lines are computed for nothing."""
        return self.lines * self.pitch(m, segments) - (segments - 1)

    def pixel(self, line: Expr, at: Expr, length: int) -> Expr:
        """Return the number of pixel ``at`` of a line, in tensors of that length along the axis."""
        if self.axis == 1:
            return line * length + at
        image, column = line // self.across, line % self.across
        return (image * length + at) * self.across + column


class _Stages:
    """The three stages over one block of rows."""

    def __init__(self, site: ConvSite, how: LineConfig) -> None:
        self.site, self.how, self.line = site, how, _Line(site)
        self.rows = self.line.rows(how.m, how.segments)
        self.pitch = self.line.pitch(how.m, how.segments)
        self.shared = how.parallel == "stages"
        self.products = Products(
            places=how.places,
            rows=how.block,
            pitch=site.channels,
            k=how.segments * site.channels,
            chunk=how.chunk * site.channels,
            columns=site.out_channels,
            tile=how.tile,
            prefetch=how.prefetch,
            parallel=self.shared,
        )

    def input(self, x: tirx.Buffer, moved: tirx.Buffer, first: Expr) -> None:
        """Emit B^T d of each tile: ``moved[place, row, c]``."""
        site, how, length = self.site, self.how, self.line.length
        matrix = transforms(how.m, how.taps).input
        with loop(how.block + how.segments - 1, parallel=self.shared) as t:
            line, start = self._place(first + t)
            start = bind(start - self.line.before)

            def transform(*, check: bool) -> None:
                each_vector(site.channels, how.lanes, lambda vec, c: one(vec, c, check=check))

            def one(vector: Vector, c: Expr, *, check: bool) -> None:
                def pixel(j: int) -> Expr:
                    at = self.line.pixel(line, start + j, length)
                    value = vector.load(x, at * site.pitch + c)
                    if check:
                        there = tirx.all(start + j >= 0, start + j < length)
                        value = tirx.if_then_else(there, value, vector.splat(0.0))
                    return bind(value)

                values = apply(matrix, vector, [pixel(j) for j in range(how.places)])
                for place, value in enumerate(values):
                    at = place * self.products.input_pitch + t * site.channels + c
                    vector.store(moved, value, at)

            inside = tirx.all(start >= 0, start + how.places <= length)
            either(inside, transform)

    def output(
        self, summed: tirx.Buffer, operands: list[tirx.Buffer], y: tirx.Buffer, first: Expr
    ) -> None:
        """Emit the epilogue of A^T q of each tile."""
        site, how, length = self.site, self.how, self.line.out_length
        matrix = transforms(how.m, how.taps).output
        with loop(how.block, parallel=self.shared) as t:
            line, start = self._place(first + t)

            def transform(*, check: bool) -> None:
                each_vector(site.out_channels, how.lanes, lambda vec, o: one(vec, o, check=check))

            def one(vector: Vector, o: Expr, *, check: bool) -> None:
                def product(place: int) -> Expr:
                    at = place * self.products.output_pitch + t * site.out_channels + o
                    return bind(vector.load(summed, at))

                values = apply(matrix, vector, [product(j) for j in range(how.places)])
                for i, value in enumerate(values):
                    pixel = self.line.pixel(line, start + i, length)
                    place = (pixel, o, site.out_channels)
                    if not check:
                        site.epilogue.store(vector, value, operands, y, place)
                        continue
                    with T.If(start + i < length), T.Then():
                        site.epilogue.store(vector, value, operands, y, place)

            either(start + how.m <= length, transform)

    def _place(self, row: Expr) -> tuple[Expr, Expr]:
        """Return the line of a row, and the first output pixel of its tile in that line."""
        if self.line.lines == 1:
            return tirx.const(0, "int32"), bind(row * self.how.m)
        return bind(row // self.pitch), bind(row % self.pitch * self.how.m)
