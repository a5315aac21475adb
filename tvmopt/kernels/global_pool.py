"""Mean over all pixels of each image, NHWC.

Source: none; derived here.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.kernels import cost
from tvmopt.kernels.blocks import worth_threads
from tvmopt.kernels.vector import Vector, bind, loop, parameters, prim_func, registers
from tvmopt.targets.description import CpuTarget

MAX_VECTORS = 4  # registers of channels at once: enough to hide the latency of an addition


@dataclass(frozen=True, kw_only=True, slots=True)
class GlobalMeanSite:
    """The mean over all pixels of each image.

    Attributes:
        batch: Images.
        pixels: Pixels of an image.
        channels: Channels.
    """

    batch: int
    pixels: int
    channels: int


def cycles(site: GlobalMeanSite, target: CpuTarget) -> float:
    """Return the predicted cycles of one core: it reads the tensor once."""
    moved = site.batch * site.pixels * site.channels * 4
    return cost.CALL_CYCLES + cost.stream_cycles(moved, target)


def global_mean(site: GlobalMeanSite, target: CpuTarget, name: str) -> tirx.PrimFunc:
    """Return ``name(x: (batch, pixels, channels), y: (batch, channels))``, both float32."""
    batch, pixels, channels = site.batch, site.pixels, site.channels
    vector = Vector(min(target.lanes(32), channels))
    vectors = min(MAX_VECTORS, channels // vector.lanes)
    width = vectors * vector.lanes
    blocks = -(-channels // width)

    def body() -> None:
        x, y = parameters(("x", (batch, pixels, channels)), ("y", (batch, channels)))
        with loop(batch * blocks, parallel=worth_threads(batch * pixels * channels)) as task:
            n, block = bind(task // blocks), bind(task % blocks)
            channel = bind(tirx.min(block * width, channels - width))
            sums = registers(width)
            for v in range(vectors):
                vector.store(sums, vector.splat(0.0), v * vector.lanes)
            with T.serial(pixels) as i:
                at = bind((n * pixels + i) * channels + channel)
                for v in range(vectors):
                    value = vector.load(x, at + v * vector.lanes)
                    held = vector.load(sums, v * vector.lanes)
                    vector.store(sums, held + value, v * vector.lanes)
            for v in range(vectors):
                value = vector.load(sums, v * vector.lanes) * vector.splat(1.0 / pixels)
                vector.store(y, value, n * channels + channel + v * vector.lanes)

    return prim_func(name, body, {"tvmopt.macs": 0})
