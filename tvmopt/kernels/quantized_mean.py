"""Average pooling over 8-bit integers, NHWC: exact integer sums, then one float32 factor.

The mean of what lies in a window is ``sum(x - zero point) * factor``, with one factor for each
number of elements that a window may hold: windows at the border hold fewer. A window as large as
the image is the global mean.

Source: none; derived here.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.kernels import cost
from tvmopt.kernels.blocks import worth_threads
from tvmopt.kernels.epilogue import Epilogue, Operand
from tvmopt.kernels.pool import PIXEL_CYCLES, PoolSite, window
from tvmopt.kernels.vector import (
    Expr,
    Vector,
    bind,
    cast,
    fence,
    loop,
    parameters,
    prim_func,
    registers,
)
from tvmopt.targets.description import CpuTarget

MAX_VECTORS = 4  # registers of channels at once: enough to hide the latency of an addition
UNROLLED_TAPS = 16  # elements of a window that is written out
SHORT_TAPS = 128  # sums of so many 8-bit integers stay within 16 bits: 128 * 255 < 2**15


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizedMeanSite:
    """An average pooling over 8-bit integers.

    Attributes:
        windows: Where the windows lie; its ``dtype`` is that of the input, its ``kind`` "mean".
        zero_point: The input's integer that stands for 0.
        epilogue: What follows the mean; it may round to integers.
    """

    windows: PoolSite
    zero_point: int
    epilogue: Epilogue

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """Shape of the output tensor."""
        return self.windows.output_shape


def factors(site: QuantizedMeanSite, scale: float) -> np.ndarray:
    """Return what the sum of each number of elements is multiplied by, (taps + 1,) float32.

    Args:
        site: The pooling.
        scale: The input's scale over the output's (1 for a float output), float64. Each factor is
            rounded once.
    """
    windows = site.windows
    count = np.arange(windows.taps + 1, dtype=np.float64)
    divisor = np.full_like(count, windows.taps) if windows.count_pad else np.maximum(count, 1)
    return (np.float64(scale) / divisor).astype(np.float32)


def cycles(site: QuantizedMeanSite, target: CpuTarget) -> float:
    """Return the predicted cycles of one core: a load and a conversion a tap, or memory."""
    windows = site.windows
    vector, pixels = _sums(windows, target), windows.batch * prod(windows.out_size)
    steps = windows.taps * 1.5 + 4 + cost.STEP_CYCLES * len(site.epilogue.steps)
    work = pixels * (-(-windows.channels // vector.lanes) * steps + PIXEL_CYCLES)
    moved = prod(windows.input_shape) + prod(site.output_shape)
    return cost.CALL_CYCLES + max(work, cost.stream_cycles(moved, target))


def quantized_mean(site: QuantizedMeanSite, target: CpuTarget, name: str) -> tirx.PrimFunc:
    """Return ``name(x, factors: (taps + 1,), *operands, y)``; shapes as the site says."""
    windows, (out_h, out_w) = site.windows, site.windows.out_size
    c, vector = windows.channels, _sums(windows, target)
    width = vector.lanes * min(MAX_VECTORS, c // vector.lanes)
    blocks = -(-c // width)
    work = prod(site.output_shape) * windows.taps

    def body() -> None:
        x, table, *operands, y = parameters(
            ("x", windows.input_shape, windows.dtype),
            ("factors", (windows.taps + 1,)),
            *site.epilogue.parameters(site.output_shape),
        )
        tasks = windows.batch * out_h * blocks
        with loop(tasks, parallel=worth_threads(work)) as task:
            line, channel = bind(task // blocks), bind(tirx.min(task % blocks * width, c - width))
            n, oh = bind(line // out_h), bind(line % out_h)
            rows = window(windows, 0, oh)
            with T.serial(out_w) as ow:
                block = _Block(site, vector, width, (n, channel), (rows, window(windows, 1, ow)))
                block.add_up(x)
                block.write(table, operands, y, (line * out_w + ow) * c + channel)

    return prim_func(name, body, {"tvmopt.macs": 0})


def _sums(windows: PoolSite, target: CpuTarget) -> Vector:
    """Return the type of a register of sums."""
    dtype, bits = ("int16", 16) if windows.taps <= SHORT_TAPS else ("int32", 32)
    return Vector(min(target.lanes(bits), windows.channels), dtype)


class _Block:
    """The sums of one window over some registers of channels."""

    def __init__(
        self,
        site: QuantizedMeanSite,
        vector: Vector,
        width: int,
        place: tuple[Expr, Expr],
        bounds: tuple[tuple[Expr, Expr], tuple[Expr, Expr]],
    ) -> None:
        self.site, self.vector, self.place = site, vector, place
        self.first = tuple(low for low, _ in bounds)
        self.extents = tuple(bind(tirx.max(high - low, 0)) for low, high in bounds)
        self.starts = range(0, width, vector.lanes)
        self.held = registers(width, vector.dtype)

    def add_up(self, x: tirx.Buffer) -> None:
        """Emit the sums: written out for a small window within the image, else as loops."""
        windows, vector = self.site.windows, self.vector
        for start in self.starts:
            vector.store(self.held, vector.splat(tirx.const(0, vector.dtype)), start)
        if windows.taps > UNROLLED_TAPS:
            self._add_clipped(x)
            return
        rows, columns = self.extents
        with T.If(tirx.all(rows == windows.kernel[0], columns == windows.kernel[1])):
            with T.Then():
                for i, j in product(*map(range, windows.kernel)):
                    self._add(x, i, j)
            with T.Else():
                self._add_clipped(x)

    def _add_clipped(self, x: tirx.Buffer) -> None:
        with T.serial(self.extents[0]) as i, T.serial(self.extents[1]) as j:
            self._add(x, i, j)

    def _add(self, x: tirx.Buffer, i: Expr | int, j: Expr | int) -> None:
        """Emit the additions of the window's element in line i and column j."""
        windows, vector, (n, channel) = self.site.windows, self.vector, self.place
        row = (n * windows.height + self.first[0] + i) * windows.width
        at = bind((row + self.first[1] + j) * windows.channels + channel)
        for start in self.starts:
            value = cast(vector.load(x, at + start), vector.dtype)
            vector.store(self.held, vector.load(self.held, start) + value, start)

    def write(
        self, factors: tirx.Buffer, operands: list[tirx.Buffer], y: tirx.Buffer, place: Expr
    ) -> None:
        """Emit the means, what follows them, and the stores from ``place`` on."""
        vector, real = self.vector, Vector(self.vector.lanes)
        count = bind(self.extents[0] * self.extents[1])
        factor = real.splat(bind(factors[count]))
        offset = Vector(vector.lanes, "int32").splat(bind(count * self.site.zero_point))
        for start in self.starts:

            def load(number: int, kind: Operand, start: int = start) -> Expr:
                first = self.place[1] if kind is Operand.CHANNEL else place
                return real.load(operands[number], first + start)

            total = cast(vector.load(self.held, start), "int32") - offset
            mean = fence(cast(total, "float32") * factor)
            real.store(y, self.site.epilogue.apply(real, mean, load), place + start)
