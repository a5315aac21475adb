"""The input of a convolution with pixels side by side: bands of lines, a plane for each word.

A word is 32 bits of a pixel: one float32 channel, or as many integer channels as one step of an
integer product takes. In a plane the words of one channel lie pixel after pixel, line after line;
lines are ``pitch`` words long, so that a tap of the kernel is one constant offset for all pixels of
a band. The padding at the right of a line is that at the left of the next. Strides leave every s-th
pixel: then each residue of the coordinates that a tap reads, a *phase*, has planes of its own.

Source: NCHW convolution with a padded pitch; the phases are the polyphase split of signal
processing. The bands are derived here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.kernels.conv_site import ConvSite
from tvmopt.kernels.dot import Dot
from tvmopt.kernels.transpose_tile import transposed
from tvmopt.kernels.vector import Expr, Vector, bind, cast, loop

LINE_WORDS = 16  # words of a cache line of 64 bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelBands:
    """A convolution's output pixels cut into bands, and where a band's inputs lie.

    A pointwise convolution has lines of one pixel, so that bands are runs of pixels.

    Attributes:
        conv: The convolution: one group, NHWC.
        word: Channels of a word; they divide the input channels.
        rows: Output lines of a band; the last band overlaps the one before it.
        tile: Pixels that are computed at once.
    """

    conv: ConvSite
    word: int
    rows: int
    tile: int

    @property
    def lines(self) -> int:
        """Output lines of an image; of all images where pixel follows pixel."""
        return self.conv.rows if self.conv.pointwise else self.conv.out_size[0]

    @property
    def line(self) -> int:
        """Output pixels of a line."""
        return 1 if self.conv.pointwise else self.conv.out_size[1]

    @property
    def images(self) -> int:
        """Images whose bands are cut one by one."""
        return 1 if self.conv.pointwise else self.conv.batch

    @property
    def count(self) -> int:
        """Bands of an image."""
        return -(-self.lines // self.rows)

    @property
    def halo(self) -> tuple[int, int]:
        """Lines and pixels that a band's inputs have more than its outputs."""
        spans = zip(self.conv.kernel, self.conv.dilation, self.conv.strides, strict=True)
        (down, right) = [(k - 1) * d // s for k, d, s in spans]
        return down, right

    @property
    def shared(self) -> int:
        """Words of padding that end one line of a plane and begin the next.

        Never more than the halo: a line has a place for each of its outputs.
        """
        _, left, _, right = self.conv.pads
        return min(left, right, self.halo[1]) if self.conv.strides[1] == 1 else 0

    @property
    def pitch(self) -> int:
        """Words of a line of a plane."""
        return self.line + self.halo[1] - self.shared

    @property
    def phases(self) -> list[tuple[int, int]]:
        """The residues (vertical, horizontal) of the input's coordinates that taps read."""
        each = [
            sorted({i * d % s for i in range(k)})
            for k, d, s in zip(self.conv.kernel, self.conv.dilation, self.conv.strides, strict=True)
        ]
        return [(a, b) for a in each[0] for b in each[1]]

    @property
    def words(self) -> int:
        """Words of a pixel."""
        return self.conv.channels // self.word

    @property
    def positions(self) -> int:
        """Places of a band's outputs, those in the halo at the right of each line included."""
        return self.rows * self.pitch

    @property
    def tiles(self) -> int:
        """Tiles of a band; the last one may reach beyond it."""
        return -(-self.positions // self.tile)

    @property
    def whole(self) -> bool:
        """Whether every place of every tile is an output pixel."""
        return self.pitch == self.line and self.tiles * self.tile == self.positions

    @property
    def span(self) -> int:
        """Words from one plane to the next.

        An odd number of cache lines where a tile reads a part of each plane: then planes do not
        meet in the same sets of level 1.
        """
        down, right = self.halo
        least = self.tiles * self.tile + down * self.pitch + right
        return least if least == self.tile else (-(-least // LINE_WORDS) | 1) * LINE_WORDS

    @property
    def size(self) -> int:
        """Words of a band's planes."""
        return len(self.phases) * self.words * self.span

    def places(self) -> np.ndarray:
        """Return where each tap's word lies, from that of the pixel's first: (kh, kw, words)."""
        (kh, kw), (dh, dw), (sh, sw) = self.conv.kernel, self.conv.dilation, self.conv.strides
        number = {phase: i for i, phase in enumerate(self.phases)}
        found = np.zeros((kh, kw, self.words), np.int64)
        for i in range(kh):
            for j in range(kw):
                plane = number[i * dh % sh, j * dw % sw] * self.words + np.arange(self.words)
                shift = i * dh // sh * self.pitch + j * dw // sw
                found[i, j] = plane * self.span + shift
        return found

    def first_line(self, band: Expr) -> Expr:
        """Return the first output line of a band."""
        line = band * self.rows
        return line if self.lines % self.rows == 0 else tirx.min(line, self.lines - self.rows)


class BandCopy:
    """Emits the copy of a band's inputs into planes."""

    def __init__(
        self, bands: PixelBands, lanes: int, dot: Dot | None, fill: int, *, flip: bool
    ) -> None:
        """Take what is copied.

        Args:
            bands: The geometry.
            lanes: Words of a register.
            dot: Reads the words; None where they are float32.
            fill: What stands for 0 in the padding, of the input's integers.
            flip: Whether 128 is added to (or, the same bits, taken from) each of 8 bits.
        """
        self.bands, self.lanes, self.dot, self.flip = bands, lanes, dot, flip
        self.dtype = "float32" if dot is None else "int32"
        self.fill = self._filling(fill)

    def emit(
        self, x: tirx.Buffer, planes: tirx.Buffer, at: Expr | int, image: Expr, line: Expr
    ) -> None:
        """Emit the copy of the band from output line ``line`` to ``planes[at:]``."""
        bands, conv = self.bands, self.bands.conv
        down, _ = bands.halo
        for number, (a, b) in enumerate(bands.phases):
            base = at + number * bands.words * bands.span
            if self._contiguous:
                pixel = bind((image * conv.height * conv.width) + line * bands.pitch)
                self._segment(x, planes, base, pixel, 1, (bands.rows + down) * bands.pitch)
                continue
            low, high = self._valid(b)
            with T.serial(bands.rows + down) as r:
                start = bind(base + r * bands.pitch)
                h = bind((line + r) * conv.strides[0] + a - conv.pads[0])
                with T.If(tirx.all(h >= 0, h < conv.height)):
                    with T.Then():
                        self._fill(planes, start, 0, low)
                        step = conv.strides[1]
                        pixel = (image * conv.height + h) * conv.width
                        first = bind(pixel + low * step + b - conv.pads[1])
                        if high > low:
                            self._segment(x, planes, start + low, first, step, high - low)
                        self._fill(planes, start, high, bands.pitch)
                    with T.Else():
                        self._fill(planes, start, 0, bands.pitch)
            end = bind(base + (bands.rows + down) * bands.pitch)
            self._fill(planes, end, 0, bands.shared)

    @property
    def _contiguous(self) -> bool:
        """Whether the band's inputs follow each other in the input."""
        conv = self.bands.conv
        return conv.pointwise or (not any(conv.pads) and conv.strides == (1, 1))

    def _valid(self, phase: int) -> tuple[int, int]:
        """Return the first place of a line that lies in the input, and the one behind the last."""
        conv, step = self.bands.conv, self.bands.conv.strides[1]
        first = phase - conv.pads[1]
        low = max(0, -(first // step))
        high = min(self.bands.pitch, (conv.width - 1 - first) // step + 1)
        return min(low, self.bands.pitch), max(high, low)

    def _segment(
        self, x: tirx.Buffer, planes: tirx.Buffer, at: Expr, pixel: Expr, step: int, count: int
    ) -> None:
        """Emit the copy of ``count`` pixels from ``pixel``, ``step`` apart, to ``planes[at:]``."""
        bands = self.bands
        lanes = 1
        while 2 * lanes <= min(count, bands.words, self.lanes):
            lanes *= 2
        with T.serial(-(-count // lanes)) as i, T.serial(-(-bands.words // lanes)) as j:
            p = bind(_clipped(i, lanes, count))
            c = bind(_clipped(j, lanes, bands.words))
            source = bind((pixel + p * step) * bands.conv.channels + c * bands.word)
            rows = [
                bind(self._load(x, source + k * step * bands.conv.channels, lanes))
                for k in range(lanes)
            ]
            for k, column in enumerate(transposed(rows)):
                place = at + (c + k) * bands.span + p
                Vector(lanes, self.dtype).store(planes, column, place)

    def _load(self, x: tirx.Buffer, offset: Expr, lanes: int) -> Expr:
        """Return words of a pixel."""
        if self.dot is None:
            return Vector(lanes).load(x, offset)
        values = Vector(lanes * self.bands.word, str(x.dtype)).load(x, offset)
        if self.dot.activation == "int16":
            values = cast(values, "int16")
        words = tirx.reinterpret("int32" if lanes == 1 else f"int32x{lanes}", values)
        return words ^ Vector(lanes, "int32").splat(-0x7F7F7F80) if self.flip else words

    def _fill(self, planes: tirx.Buffer, start: Expr, low: int, high: int) -> None:
        """Emit what stands for zeros, to the places from ``low`` to ``high`` of a line."""
        if low == high:
            return
        with T.serial(self.bands.words) as c, loop(high - low) as i:
            place = start + low + i + c * self.bands.span
            T.buffer_store(planes, tirx.const(self.fill, self.dtype), [place])

    def _filling(self, fill: int) -> int:
        """Return a word of what stands for 0."""
        if self.dot is None:
            return 0
        if self.dot.activation == "int16":
            return int(np.full(2, fill, np.int16).view(np.int32)[0])
        byte = fill ^ 0x80 if self.flip else fill
        return int(np.full(4, byte & 0xFF, np.uint8).view(np.int32)[0])


def _clipped(index: Expr, lanes: int, count: int) -> Expr:
    """Return where a vector starts; the last one ends with the run."""
    return index * lanes if count % lanes == 0 else tirx.min(index * lanes, count - lanes)
