"""Convolutions and products with sparse weights in blocks of few outputs: pixels in the lanes.

Where a block has one output, or two or four, no register of outputs can be filled: the lanes hold
pixels. For each block that is not zero, its weights are broadcast, and multiply the words that lie
``offset`` behind those of the tile's pixels (pixel_bands.py). The sums of a register's worth of
outputs are then transposed, so that the epilogue and the stores see channels in the lanes again.

A word is one float32, or the integers of one step of an integer product: blocks are ``outputs x 1``
of float32, and ``outputs x 4`` of int8 with PMADDUBSW and the dot products of 8 bits.

Source: E. Elsen, M. Dukhan, T. Gale and K. Simonyan, "Fast sparse convnets", CVPR 2020, section 3,
for 1x1 convolutions over CHW; larger kernels, integers and NHWC ends are derived here.
"""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.kernels import dot as dots
from tvmopt.kernels.dot import Dot
from tvmopt.kernels.epilogue import Operand
from tvmopt.kernels.pixel_bands import BandCopy
from tvmopt.kernels.qconv_site import flips
from tvmopt.kernels.sparse_pixels_site import UNROLL, SparsePixelsConfig, SparsePixelsSite
from tvmopt.kernels.transpose_tile import transposed
from tvmopt.kernels.vector import (
    Expr,
    Vector,
    bind,
    cast,
    loop,
    parameters,
    prim_func,
    registers,
    wrapping,
)


def sparse_pixels(site: SparsePixelsSite, how: SparsePixelsConfig, name: str) -> tirx.PrimFunc:
    """Return ``name(x, w, offsets, starts, [bias], *operands, y)``; as ``pack`` gives them."""
    conv, bands = site.conv, how.bands
    integers = site.qconv is not None
    copies = bands.images * bands.count if how.shared else 1

    def body() -> None:
        x, w, offsets, starts, *rest = parameters(
            ("x", conv.input_shape, conv.dtype if site.qconv is None else site.qconv.dtype),
            ("w", (site.steps, how.outputs, bands.word), "int8" if integers else "float32"),
            ("offsets", (site.steps,), site.index),
            ("starts", (how.depth * how.lists + 1,), "int32"),
            *([("bias", (how.groups * how.lanes,), "int32")] if integers else []),
            *conv.epilogue.parameters(conv.output_shape),
        )
        bias, (*operands, y) = (rest[0], rest[1:]) if integers else (None, rest)
        emit = _Emitter(site, how, (w, offsets, starts, bias), operands, y)
        if how.shared:
            planes = T.alloc_buffer((copies * bands.size,), emit.copy.dtype)
            with loop(copies, parallel=how.parallel) as band:
                emit.copy_band(x, planes, band * bands.size, band)
            with loop(copies * how.groups, parallel=how.parallel) as task:
                band, group = bind(task // how.groups), bind(task % how.groups)
                emit.tiles(planes, bind(band * bands.size), band, group, 1)
        else:
            with loop(bands.images * bands.count, parallel=how.parallel) as band:
                planes = T.alloc_buffer((bands.size,), emit.copy.dtype)
                emit.copy_band(x, planes, 0, band)
                emit.tiles(planes, 0, band, 0, how.groups)

    attrs = {
        "tvmopt.macs": bands.images
        * bands.count
        * bands.tiles
        * bands.tile
        * site.steps
        * how.outputs
        * bands.word,
        "tvmopt.scratch_bytes": 4 * (copies * bands.size + how.groups * how.lanes * bands.tile),
    }
    return prim_func(name, body, attrs)


class _Emitter:
    """Emits the parts of the kernel."""

    def __init__(
        self,
        site: SparsePixelsSite,
        how: SparsePixelsConfig,
        lists: tuple[tirx.Buffer, tirx.Buffer, tirx.Buffer, tirx.Buffer | None],
        operands: list[tirx.Buffer],
        y: tirx.Buffer,
    ) -> None:
        self.site, self.how, self.operands, self.y = site, how, operands, y
        self.w, self.offsets, self.starts, self.bias = lists
        flip = site.qconv is not None and how.dot is not None and flips(site.qconv, how.dot)
        fill = 0 if site.qconv is None else site.qconv.zero_point
        self.copy = BandCopy(how.bands, how.lanes, how.dot, fill, flip=flip)
        self.words = Vector(how.lanes, self.copy.dtype)

    def copy_band(self, x: tirx.Buffer, planes: tirx.Buffer, at: Expr | int, band: Expr) -> None:
        """Emit the copy of a band's inputs to ``planes[at:]``."""
        count = self.how.bands.count
        self.copy.emit(x, planes, at, bind(band // count), self.how.bands.first_line(band % count))

    def tiles(
        self, planes: tirx.Buffer, at: Expr | int, band: Expr, first: Expr | int, groups: int
    ) -> None:
        """Emit all tiles of a band, for ``groups`` registers of outputs from the first."""
        how, bands = self.how, self.how.bands
        size, parts = how.lanes * bands.tile, how.lanes // how.outputs
        sums = T.alloc_buffer((size * (groups if how.depth > 1 else 1),), self.copy.dtype)
        with T.serial(bands.tiles) as t:
            start = bind(at + t * bands.tile)
            if how.depth == 1:
                with T.serial(groups) as g:
                    group = bind(first + g)
                    with loop(parts) as part:
                        number = bind(group * parts + part)
                        self._accumulate(planes, start, number, None, sums, part * (size // parts))
                    self._write(sums, 0, band, t, group)
                return
            with T.serial(how.depth) as block, T.serial(groups * parts) as part:
                number = bind(first * parts + part)
                self._accumulate(planes, start, number, block, sums, part * (size // parts))
            with T.serial(groups) as g:
                self._write(sums, g * size, band, t, bind(first + g))

    def _accumulate(
        self,
        planes: tirx.Buffer,
        at: Expr,
        number: Expr,
        block: Expr | None,
        sums: tirx.Buffer,
        to: Expr,
    ) -> None:
        """Emit the sums of a list's outputs over a tile, and put them at ``sums[to:]``.

        Of a block of words that is not the first, they go on from what lies there.
        """
        how, width = self.how, self.how.bands.tile
        held = [
            [registers(width, self.copy.dtype) for _ in range(how.outputs)] for _ in range(how.sets)
        ]
        for u in range(how.sets):
            for o in range(how.outputs):
                for v in range(how.vectors):
                    begin = self.words.splat(0)
                    if self.bias is not None and u == 0:
                        begin = self.words.splat(self.bias[number * how.outputs + o])
                    if block is not None and u == 0:
                        old = self.words.load(sums, to + o * width + v * how.lanes)
                        begin = tirx.if_then_else(block == 0, begin, old)
                    self.words.store(held[u][o], begin, v * how.lanes)
        listed = number if block is None else bind(block * how.lists + number)
        first = bind(self.starts[listed])
        rounds = bind((self.starts[listed + 1] - first) // UNROLL)
        with T.serial(rounds) as turn:
            for u in range(UNROLL):
                step = bind(first + turn * UNROLL + u)
                self._step(planes, at, step, held[u % how.sets])
        for o in range(how.outputs):
            for v in range(how.vectors):
                parts = [self.words.load(held[u][o], v * how.lanes) for u in range(how.sets)]
                total = parts[0]
                for more in parts[1:]:
                    total = total + more if how.dot is None else wrapping("add", total, more)
                self.words.store(sums, total, to + o * width + v * how.lanes)

    def _step(self, planes: tirx.Buffer, at: Expr, step: Expr, sums: list[tirx.Buffer]) -> None:
        """Emit the products of one block."""
        how = self.how
        start = bind(at + cast(self.offsets[step], "int32"))
        left = [bind(self._weight(step * how.outputs + o)) for o in range(how.outputs)]
        for v in range(how.vectors):
            x = bind(self.words.load(planes, start + v * how.lanes))
            if how.dot is not None:
                x = bind(tirx.reinterpret(_bytes(how.dot, how.dot.activation), x))
            for o in range(how.outputs):
                total = self.words.load(sums[o], v * how.lanes)
                if how.dot is None:
                    total = total + x * left[o]
                else:
                    total = dots.step(total, x, left[o], how.dot)
                self.words.store(sums[o], total, v * how.lanes)

    def _weight(self, place: Expr) -> Expr:
        """Return a block's weights for one output, in every lane."""
        dot = self.how.dot
        if dot is None:
            return self.words.splat(self.w[place])
        values = Vector(dot.group, "int8").load(self.w, place * dot.group)
        kind = "int16" if dot.activation == "int16" else "int8"
        bits = tirx.reinterpret("int32", cast(values, kind))
        return tirx.reinterpret(_bytes(dot, kind), self.words.splat(bits))

    def _write(
        self, sums: tirx.Buffer, at: Expr | int, band: Expr, tile: Expr, group: Expr
    ) -> None:
        """Emit the epilogue of a register's worth of outputs over a tile."""
        how, bands, conv = self.how, self.how.bands, self.site.conv
        lanes, width = how.lanes, bands.tile
        column = bind(tirx.min(group * lanes, conv.out_channels - lanes))
        line = bind(bands.first_line(band % bands.count) + band // bands.count * bands.lines)
        with T.serial(how.vectors) as v:
            rows = [bind(self.words.load(sums, at + j * width + v * lanes)) for j in range(lanes)]
            for i, value in enumerate(transposed(rows)):
                place = bind(tile * width + v * lanes + i)
                if bands.whole:
                    self._store(value, line * bands.line + place, column)
                    continue
                row, pixel = bind(place // bands.pitch), bind(place % bands.pitch)
                inside = tirx.all(row < bands.rows, pixel < bands.line)
                with T.If(inside), T.Then():
                    self._store(value, bind((line + row) * bands.line + pixel), column)

    def _store(self, value: Expr, pixel: Expr, column: Expr) -> None:
        """Emit the epilogue and the store of one pixel's outputs."""
        start = bind(pixel * self.site.conv.out_channels + column)
        vector = Vector(self.how.lanes)

        def load(number: int, kind: Operand) -> Expr:
            if kind is Operand.ROW:
                return vector.splat(self.operands[number][pixel])
            if kind is Operand.ONE:
                return vector.splat(self.operands[number][0])
            return vector.load(self.operands[number], column if kind is Operand.CHANNEL else start)

        result = self.site.conv.epilogue.apply(vector, value, load)
        vector.store(self.y, result, start)


def _bytes(dot: Dot, kind: str) -> str:
    """Return the type of a register of short integers."""
    return f"{kind}x{dot.group * dot.lanes}"
