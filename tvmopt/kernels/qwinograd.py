"""Winograd convolution of 8-bit integers, exact: F(m x m, 3 x 3) for stride 1, NHWC.

The transforms of F(4, 3) divide by 6 and 24. Here each row is multiplied by what makes it integral,
so that inputs and weights are transformed into 16 bits without rounding and the products are exact;
what the scaled transforms give is ``24 * 24``, or a divisor of it, times the convolution. All sums
are modulo 2**32, where 9 has an inverse: one multiplication by that and a shift give the
convolution itself, whatever overflowed on the way, if ``64 * abs(result) < 2**31``.

F(4, 3) does 36 products where the direct form does 144, at 16 instead of 8 bits.

Sources: A. Lavin and S. Gray, "Fast algorithms for convolutional neural networks", CVPR 2016, for
the algorithm; Z.-G. Liu and M. Mattina, "Efficient residue number system based Winograd
convolution", ECCV 2020, for exact Winograd in modular arithmetic (they use small coprime moduli).
That 2**32 itself is the modulus, and the rows' own factors, are derived here.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tvm import tirx

from tvmopt.kernels import cost, winograd
from tvmopt.kernels.blocks import worth_threads
from tvmopt.kernels.dot import Dot, wide_dot, word
from tvmopt.kernels.dot_tile import DotTile
from tvmopt.kernels.epilogue import STORE
from tvmopt.kernels.qconv_site import QConvSite
from tvmopt.kernels.qtile import choose_qtile, tile_cycles
from tvmopt.kernels.tile import panel_columns, panels
from tvmopt.kernels.vector import (
    Expr,
    Vector,
    cast,
    parameters,
    prefetch,
    prim_func,
    wrapping,
)
from tvmopt.kernels.winograd_stages import Stages, WinogradConfig, choose_block, tiles
from tvmopt.kernels.winograd_transforms import (
    SCALED_SHIFT,
    Get,
    Put,
    transform_input,
    transform_output_scaled,
    transform_weight_scaled,
)
from tvmopt.targets.description import CpuTarget

INVERSE_OF_9 = pow(9, -1, 2**32)
INT16_HIGH = 2**15 - 1
# Of one tile, one vector of channels; measured on Zen 3.
INPUT_CYCLES = {2: 30, 4: 75}
OUTPUT_CYCLES = {2: 45, 4: 130}


def applies(site: QConvSite, weight: np.ndarray, m: int) -> bool:
    """Say whether F(m, 3) computes ``site`` exactly.

    Args:
        site: The convolution.
        weight: Integers (o, 3, 3, c).
        m: Edge of an output tile, 2 or 4.
    """
    conv = site.conv
    if not winograd.applies(conv) or conv.channels % 2 or conv.out_channels < 8:
        return False
    # The zero point is taken off at the end: until then an input counts from 0.
    largest = 255 * int(np.abs(weight).sum((1, 2, 3)).max())
    moved = int(np.abs(transform_weight_scaled(weight, m)).max())
    return (largest << 2 * SCALED_SHIFT[m][0]) < 2**31 and moved <= INT16_HIGH


def config(site: QConvSite, m: int, target: CpuTarget) -> WinogradConfig:
    """Return the analytic choice for ``site`` with output tiles of edge ``m``."""
    conv, places, dot = site.conv, (m + 2) ** 2, wide_dot(target)
    count = conv.batch * tiles(conv, m)[0] * tiles(conv, m)[1]
    weights = places * conv.channels * conv.out_channels * 2
    tile_bytes = places * (conv.channels * 2 + conv.out_channels * 4)
    block = choose_block(count, weights, tile_bytes, target)
    several = -(-count // block) > 1
    steps = -(-conv.channels // dot.group)
    return WinogradConfig(
        m=m,
        block=block,
        tile=choose_qtile(block, conv.out_channels, steps, dot, target, None),
        lanes=target.lanes(32),
        parallel="" if not worth_threads(conv.macs // 2) else "blocks" if several else "stages",
        prefetch=weights > 2 * target.l2_bytes,
    )


def cycles(site: QConvSite, how: WinogradConfig, target: CpuTarget) -> float:
    """Return the predicted cycles of one core: products, transforms and the weights' way in."""
    conv, places, dot = site.conv, (how.m + 2) ** 2, wide_dot(target)
    count = conv.batch * tiles(conv, how.m)[0] * tiles(conv, how.m)[1]
    blocks = -(-count // how.block)
    number = places * blocks * -(-how.block // how.tile.rows)
    number *= len(panels(conv.out_channels, how.tile))
    steps = -(-conv.channels // dot.group)
    products = number * tile_cycles(how.tile, steps, dot, target, STORE)
    weights = places * conv.channels * conv.out_channels * 2
    transforms = count * (
        -(-conv.channels // (2 * how.lanes)) * INPUT_CYCLES[how.m]
        + -(-conv.out_channels // how.lanes) * OUTPUT_CYCLES[how.m]
    )
    fetch = cost.weight_cycles(weights, blocks, target)
    return cost.CALL_CYCLES + max(products, fetch) + transforms


def pack(weight: np.ndarray, how: WinogradConfig, target: CpuTarget) -> np.ndarray:
    """Return integers (o, 3, 3, c) as transformed panels, int16.

    Returns:
        ((m + 2)^2, p, c / group, tile.width, group).
    """
    group = wide_dot(target).group
    moved = transform_weight_scaled(weight, how.m)  # (places, c, o)
    cut = moved[:, :, panel_columns(weight.shape[0], how.tile)]  # (places, c, p, width)
    places, c, p, width = cut.shape
    cut = cut.reshape(places, c // group, group, p, width).transpose(0, 3, 1, 4, 2)
    return np.ascontiguousarray(cut.astype(np.int16))


def qwinograd(site: QConvSite, how: WinogradConfig, name: str, target: CpuTarget) -> tirx.PrimFunc:
    """Return ``name(x, w: pack(), bias: (o,) int32, *operands, y)``; shapes as the site says.

    ``bias`` has the zero point's part in it: ``bias - zero_point * sum of the weights``.
    """
    conv, dot = site.conv, wide_dot(target)
    shape = Stages(conv, how, _Integers(site, how, dot, None))

    def body() -> None:
        x, w, bias, *operands, y = parameters(
            ("x", conv.input_shape, site.dtype, conv.input_rows),
            (
                "w",
                (shape.places, shape.panels, conv.channels // dot.group, how.tile.width, dot.group),
                "int16",
            ),
            ("bias", (conv.out_channels,), "int32"),
            *conv.epilogue.parameters(conv.output_shape),
        )
        Stages(conv, how, _Integers(site, how, dot, bias)).emit(x, w, operands, y)

    attrs = {"tvmopt.macs": conv.macs, "tvmopt.scratch_bytes": shape.scratch_bytes}
    return prim_func(name, body, attrs)


class _Integers:
    """Stages of 16-bit values and 32-bit sums."""

    moved, products = "int16", "int32"

    def __init__(
        self, site: QConvSite, how: WinogradConfig, dot: Dot, bias: tirx.Buffer | None
    ) -> None:
        self.site, self.how, self.dot, self.bias = site, how, dot, bias
        self.input_lanes, self.output_lanes = 2 * how.lanes, how.lanes

    def read(self, x: tirx.Buffer, at: Expr, lanes: int) -> Expr:
        return cast(Vector(lanes).load(x, at), "int16")

    def outside(self, lanes: int) -> Expr:
        return Vector(lanes, "int16").splat(self.site.zero_point)

    def enter(self, lanes: int, get: Get, put: Put) -> None:
        transform_input(self.how.m, Vector(lanes, "int16"), get, put)

    def leave(self, lanes: int, get: Get, put: Put) -> None:
        shifts, whole = SCALED_SHIFT[self.how.m], Vector(lanes, "int32")
        inverse = np.uint32(INVERSE_OF_9).astype(np.int32)

        def unscaled(i: int, j: int, value: Expr) -> None:
            if self.how.m == 4:
                value = wrapping("mul", value, whole.splat(int(inverse)))
            shift = whole.splat(shifts[i] + shifts[j])
            put(i, j, wrapping("ashr", value, shift) if shifts[i] + shifts[j] else value)

        transform_output_scaled(self.how.m, whole, get, unscaled)

    def multiply(
        self,
        rows: Callable[[int], Expr],
        moved: tirx.Buffer,
        w: tirx.Buffer,
        panel: Expr,
        share: tuple[Expr, int],
    ) -> DotTile:
        dot, tile, (number, groups) = self.dot, self.how.tile, share
        steps, zero = self.site.conv.channels // dot.group, Vector(dot.lanes, "int32").splat(0)
        size, width = steps * tile.width * dot.group, tile.width * dot.group
        sums = DotTile(tile, dot, lambda _v: zero)
        weights = Vector(dot.lanes * dot.group, dot.weight)
        ahead = (panel + 1) * size + number * (steps // groups) * width
        sums.accumulate(
            steps,
            lambda i, step: word(moved, rows(i) + step * dot.group, dot, flip=False),
            lambda step, v: weights.load(
                w, panel * size + step * width + v * dot.lanes * dot.group
            ),
            (lambda step: prefetch(w, ahead + step // groups * width, width))
            if self.how.prefetch
            else None,
        )
        return sums

    def finish(self, value: Expr, channel: Expr) -> Expr:
        assert self.bias is not None, "emitted within the kernel, where the bias is known"
        lanes = self.output_lanes
        bias = Vector(min(lanes, self.site.conv.out_channels)).load(self.bias, channel)
        return wrapping("add", value, bias)
