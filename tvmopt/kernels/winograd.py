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

import numpy as np
from tvm import tirx

from tvmopt.kernels import cost
from tvmopt.kernels.blocks import worth_threads
from tvmopt.kernels.conv_site import ConvSite
from tvmopt.kernels.epilogue import STORE
from tvmopt.kernels.micro import Accumulators
from tvmopt.kernels.tile import choose_tile, panel_columns, panels
from tvmopt.kernels.vector import Expr, Vector, parameters, prefetch, prim_func
from tvmopt.kernels.winograd_stages import Stages, WinogradConfig, applies, choose_block, tiles
from tvmopt.kernels.winograd_transforms import (
    Get,
    Put,
    transform_input,
    transform_output,
    transform_weight,
)
from tvmopt.targets.description import CpuTarget

TRANSFORM_CYCLES = {2: 25, 4: 110}  # of one tile, one vector of channels; measured on Zen 3


def config(site: ConvSite, m: int, target: CpuTarget) -> WinogradConfig:
    """Return the analytic choice for ``site`` with output tiles of edge ``m``."""
    places = (m + 2) ** 2
    count = site.batch * tiles(site, m)[0] * tiles(site, m)[1]
    weights = places * site.channels * site.out_channels * 4
    tile_bytes = places * (site.channels + site.out_channels) * 4
    block = choose_block(count, weights, tile_bytes, target)
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
    """Return the predicted cycles of one core: products, transforms, weights' and images' way."""
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
    images = cost.image_cycles(*site.image_bytes, target)
    return cost.CALL_CYCLES + max(products, fetch) + transforms + images


def pack(weight: np.ndarray, how: WinogradConfig) -> np.ndarray:
    """Return ``weight`` (o, 3, 3, c) as transformed panels ((m + 2)^2, p, c, tile.width)."""
    moved = transform_weight(weight, how.m)
    cut = moved[:, :, panel_columns(weight.shape[0], how.tile)]
    return np.ascontiguousarray(cut.transpose(0, 2, 1, 3))


def winograd(site: ConvSite, how: WinogradConfig, name: str) -> tirx.PrimFunc:
    """Return ``name(x, w: panels of pack(), *operands, y)``; shapes as the site says."""
    assert applies(site), f"{site} is no dense 3x3 convolution of stride 1"
    stages = Stages(site, how, _Floats(site, how))

    def body() -> None:
        x, w, *operands, y = parameters(
            ("x", site.input_shape, "float32", site.input_rows),
            ("w", (stages.places, stages.panels, site.channels, how.tile.width)),
            *site.epilogue.parameters(site.output_shape),
        )
        stages.emit(x, w, operands, y)

    attrs = {"tvmopt.macs": site.macs, "tvmopt.scratch_bytes": stages.scratch_bytes}
    return prim_func(name, body, attrs)


class _Floats:
    """Stages of float32 values."""

    moved = products = "float32"

    def __init__(self, site: ConvSite, how: WinogradConfig) -> None:
        self.site, self.how = site, how
        self.input_lanes = self.output_lanes = how.lanes

    def read(self, x: tirx.Buffer, at: Expr, lanes: int) -> Expr:
        return Vector(lanes).load(x, at)

    def outside(self, lanes: int) -> Expr:
        return Vector(lanes).splat(0.0)

    def enter(self, lanes: int, get: Get, put: Put) -> None:
        transform_input(self.how.m, Vector(lanes), get, put)

    def leave(self, lanes: int, get: Get, put: Put) -> None:
        transform_output(self.how.m, Vector(lanes), get, put)

    def multiply(
        self,
        rows: Callable[[int], Expr],
        moved: tirx.Buffer,
        w: tirx.Buffer,
        panel: Expr,
        share: tuple[Expr, int],
    ) -> Accumulators:
        channels, tile, (number, groups) = self.site.channels, self.how.tile, share
        size = channels * tile.width
        sums = Accumulators(tile)
        ahead = (panel + 1) * size + number * (channels // groups) * tile.width
        sums.accumulate(
            channels,
            lambda i, c: moved[rows(i) + c],
            lambda c, v: sums.vector.load(w, panel * size + c * tile.width + v * tile.lanes),
            (lambda c: prefetch(w, ahead + c // groups * tile.width, tile.width))
            if self.how.prefetch
            else None,
        )
        return sums

    def finish(self, value: Expr, _channel: Expr) -> Expr:
        return value
