"""One tile of a depthwise convolution: its sums, the loops that fill them, and the stores."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.kernels.conv_site import ConvSite
from tvmopt.kernels.vector import Expr, Vector, bind, cast, registers


@dataclass(frozen=True, kw_only=True, slots=True)
class DepthwiseConfig:
    """How a depthwise convolution is cut.

    Attributes:
        pixels: Output pixels of a tile, along the line.
        vectors: SIMD registers of channels of a tile.
        lanes: Channels in one register.
        parallel: Whether lines are shared out among threads.
    """

    pixels: int
    vectors: int
    lanes: int
    parallel: bool


class DepthwiseTile:
    """One tile's sums and the loops that fill them."""

    def __init__(
        self,
        site: ConvSite,
        how: DepthwiseConfig,
        x: tirx.Buffer,
        w: tirx.Buffer,
        place: tuple[Expr, Expr, Expr, Expr, Expr],
        zero: Expr | None,
    ) -> None:
        self.site, self.how, self.x, self.w = site, how, x, w
        self.n, self.oh, self.ow, self.channel, block = place
        self.panel = bind(block * (prod(site.kernel) * how.lanes * how.vectors))
        self.vector, self.zero = Vector(how.lanes), zero
        self.left = bind(self.ow * site.strides[1] - site.pads[1])
        self.top = bind(self.oh * site.strides[0] - site.pads[0])
        self.low, self.rows = self._bounds()
        self.sums = registers(how.pixels * how.vectors * how.lanes)

    def start(self, bias: tirx.Buffer | None) -> None:
        """Emit the sums' first values."""
        lanes, vectors, vector = self.how.lanes, self.how.vectors, self.vector
        first = [vector.splat(0.0)] * vectors
        if bias is not None:
            first = [bind(vector.load(bias, self.channel + v * lanes)) for v in range(vectors)]
        if bias is not None and self.site.shifted:
            held = registers(vectors * lanes)
            for v in range(vectors):
                vector.store(held, first[v], v * lanes)
            with T.serial(self.rows) as i:
                line = bind((1 + self.low + i) * self.site.channels + self.channel)
                for v in range(vectors):
                    more = vector.load(bias, line + v * lanes)
                    more = more if self.zero is None else vector.splat(self.zero) * more
                    vector.store(held, vector.load(held, v * lanes) + more, v * lanes)
            first = [bind(vector.load(held, v * lanes)) for v in range(vectors)]
        for i in range(self.how.pixels * vectors):
            vector.store(self.sums, first[i % vectors], i * lanes)

    @property
    def reach(self) -> int:
        """Input columns from the first to the last that the tile reads."""
        site = self.site
        span = (self.how.pixels - 1) * site.strides[1]
        return span + (site.kernel[1] - 1) * site.dilation[1] + 1

    def inside(self) -> Expr:
        """Return whether no tap lies left or right of the image."""
        return tirx.all(self.left >= 0, self.left + self.reach <= self.site.width)

    def compute(self, *, check: bool) -> None:
        """Emit the loop over lines of taps, clipped to the image."""
        site, step = self.site, self.site.dilation[0]
        vectors = list(range(self.how.vectors))
        # Registers of floats share a cache line; of integers, all but one would spill.
        for group in [vectors] if site.dtype == "float32" else [[v] for v in vectors]:
            with T.serial(self.rows) as i:
                kh = self.low + i
                line = bind((self.n * site.height + self.top + kh * step) * site.width)
                for v in group:
                    self._line(kh, line, v, check=check)

    def _bounds(self) -> tuple[Expr | int, Expr | int]:
        """Return the first line of taps within the image, and how many there are."""
        site, step = self.site, self.site.dilation[0]
        if not (site.pads[0] or site.pads[2]):
            return 0, site.kernel[0]
        low = bind(tirx.max(0, (step - 1 - self.top) // step))
        last = tirx.min(site.kernel[0], (site.height - self.top + step - 1) // step)
        return low, bind(tirx.max(last - low, 0))

    def _line(self, kh: Expr, line: Expr, v: int, *, check: bool) -> None:
        site, how, vector = self.site, self.how, self.vector
        taps, stride, dilation = site.kernel[1], site.strides[1], site.dilation[1]
        at = self.channel + v * how.lanes
        width, first = how.lanes * how.vectors, self.panel + v * how.lanes
        weights = [
            bind(vector.load(self.w, first + (kh * taps + kw) * width)) for kw in range(taps)
        ]
        for column in range(self.reach):
            users = [
                (p, kw)
                for p in range(how.pixels)
                for kw in range(taps)
                if p * stride + kw * dilation == column
            ]
            if not users:
                continue
            iw = self.left + column
            value = self._load((line + iw) * site.pitch + at)
            if check:
                there = tirx.all(iw >= 0, iw < site.width)
                zero = float(site.zero_point) if self.zero is None else self.zero
                value = tirx.if_then_else(there, value, vector.splat(zero))
            value = bind(value)
            for p, kw in users:
                place = (p * how.vectors + v) * how.lanes
                total = vector.load(self.sums, place) + value * weights[kw]
                vector.store(self.sums, total, place)

    def _load(self, place: Expr) -> Expr:
        """Return a register of the input as float32; integers are exact."""
        value = self.vector.load(self.x, place)
        return value if self.site.dtype == "float32" else cast(cast(value, "int32"), "float32")

    def write(self, y: tirx.Buffer, operands: list[tirx.Buffer]) -> None:
        """Emit the epilogue and the stores, all channels of a pixel at once.

        Integers are packed out of several registers into one.
        """
        site, (out_h, out_w) = self.site, self.site.out_size
        width = self.how.lanes * self.how.vectors
        vector = Vector(width)
        for p in range(self.how.pixels):
            pixel = (self.n * out_h + self.oh) * out_w + self.ow + p

            place = (pixel, self.channel, site.channels)
            total = vector.load(self.sums, p * width)
            site.epilogue.store(vector, total, operands, y, place)
