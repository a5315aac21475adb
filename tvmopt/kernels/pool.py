"""Max and average pooling over windows, NHWC; the maximum of 8-bit integers too.

The window is clipped to the image by the bounds of its loops, so padding costs nothing and any
stride, dilation-free window and rounding of the output size works.

Source: none; derived here.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.kernels import cost
from tvmopt.kernels.blocks import worth_threads
from tvmopt.kernels.rows import Rows, pitch_of
from tvmopt.kernels.vector import Expr, Vector, bind, loop, parameters, prim_func, registers
from tvmopt.targets.description import CpuTarget

PIXEL_CYCLES = 1  # the start of a window, measured on Zen 3, as are:
VECTOR_CYCLES = 1  # the bounds of its loops, which blocks of channels repeat, and the store
LOAD_CYCLES = 0.65  # a load with its maximum
MAX_VECTORS = 4  # registers of channels at once: enough to hide the latency of max and add


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolSite:
    """A pooling over windows of an NHWC tensor.

    Attributes:
        kind: What is kept of a window.
        batch: Images.
        height: Rows of an input image.
        width: Columns of an input image.
        channels: Channels.
        kernel: Window (vertical, horizontal).
        strides: Steps (vertical, horizontal).
        pads: Padding (top, left, bottom, right); the maximum and, unless ``count_pad``, the mean
            are taken over what lies in the image.
        out_size: Height and width of the output.
        count_pad: Whether a mean divides by the whole window.
        dtype: "float32"; a maximum may also be over "uint8" or "int8".
        input_rows: Where the channels of the input's pixels lie; None where pixel follows pixel.
        output_rows: The same of the output.
    """

    kind: Literal["max", "mean"]
    batch: int
    height: int
    width: int
    channels: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    out_size: tuple[int, int]
    count_pad: bool = False
    dtype: str = "float32"
    input_rows: Rows | None = None
    output_rows: Rows | None = None

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """Shape of the input tensor."""
        return (self.batch, self.height, self.width, self.channels)

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """Shape of the output tensor."""
        return (self.batch, *self.out_size, self.channels)

    @property
    def item_bits(self) -> int:
        """Width of an element."""
        return np.dtype(self.dtype).itemsize * 8

    @property
    def taps(self) -> int:
        """Elements of a window."""
        return self.kernel[0] * self.kernel[1]


def cycles(site: PoolSite, target: CpuTarget) -> float:
    """Return the predicted cycles of one core: one load a tap, or memory."""
    lanes = min(target.lanes(site.item_bits), site.channels)
    vectors = min(MAX_VECTORS, site.channels // lanes)
    blocks = -(-site.channels // (vectors * lanes))
    pixels = site.batch * site.out_size[0] * site.out_size[1]
    each = LOAD_CYCLES * site.taps + VECTOR_CYCLES
    work = pixels * (PIXEL_CYCLES + blocks * vectors * each)
    moved = (prod(site.input_shape) + prod(site.output_shape)) * site.item_bits // 8
    return cost.CALL_CYCLES + max(work, cost.stream_cycles(moved, target))


def pool(site: PoolSite, target: CpuTarget, name: str) -> tirx.PrimFunc:
    """Return ``name(x, y)``; shapes as the site says."""
    c, (out_h, out_w) = site.channels, site.out_size
    vector = Vector(min(target.lanes(site.item_bits), c), site.dtype)
    vectors = min(MAX_VECTORS, c // vector.lanes)
    width = vectors * vector.lanes
    work = prod(site.output_shape) * site.taps
    combine = tirx.max if site.kind == "max" else (lambda a, b: a + b)
    start = tirx.min_value(site.dtype) if site.kind == "max" else tirx.const(0.0, "float32")

    def body() -> None:
        x, y = parameters(
            ("x", site.input_shape, site.dtype, site.input_rows),
            ("y", site.output_shape, site.dtype, site.output_rows),
        )
        with loop(site.batch * out_h, parallel=worth_threads(work)) as line:
            n, oh = bind(line // out_h), bind(line % out_h)
            low_h, high_h = window(site, 0, oh)
            with T.serial(out_w) as ow:
                low_w, high_w = window(site, 1, ow)
                with T.serial(-(-c // width)) as block:
                    channel = bind(tirx.min(block * width, c - width))
                    sums = registers(width, site.dtype)
                    for v in range(vectors):
                        vector.store(sums, vector.splat(start), v * vector.lanes)
                    with T.serial(tirx.max(high_h - low_h, 0)) as i:
                        row = bind((n * site.height + low_h + i) * site.width)
                        with T.serial(tirx.max(high_w - low_w, 0)) as j:
                            at = bind((row + low_w + j) * pitch_of(site.input_rows, c) + channel)
                            for v in range(vectors):
                                value = vector.load(x, at + v * vector.lanes)
                                held = vector.load(sums, v * vector.lanes)
                                vector.store(sums, combine(held, value), v * vector.lanes)
                    pixel = (line * out_w + ow) * pitch_of(site.output_rows, c) + channel
                    count = _count(site, (high_h - low_h) * (high_w - low_w))
                    for v in range(vectors):
                        value = vector.load(sums, v * vector.lanes)
                        if site.kind == "mean":
                            value = value / vector.splat(count)
                        vector.store(y, value, pixel + v * vector.lanes)

    return prim_func(name, body, {"tvmopt.macs": 0})


def window(site: PoolSite, axis: int, out: Expr) -> tuple[Expr, Expr]:
    """Return the first input place of the window and the one after its last, clipped."""
    size = (site.height, site.width)[axis]
    start = bind(out * site.strides[axis] - site.pads[axis])
    low, high = tirx.max(start, 0), tirx.min(start + site.kernel[axis], size)
    return bind(low), bind(high)


def _count(site: PoolSite, inside: Expr) -> Expr:
    """Return what a mean divides by, as float32."""
    if not site.count_pad:
        return bind(tirx.Cast("float32", tirx.max(inside, 1)))
    return tirx.const(float(site.taps), "float32")
