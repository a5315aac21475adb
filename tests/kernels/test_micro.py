"""Mirror of tvmopt/kernels/micro.py: what its loop looks like in the code of each machine.

Speed is in the shape of the hot loop: multiply-adds of whole registers, nothing spilled, no call.
That is checked in the assembly, so no clock is needed and no CPU of that kind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
from tvm import tirx

from tvmopt.kernels import batch_matmul, conv, conv_transpose, depthwise, gemm, winograd
from tvmopt.kernels.batch_matmul import BatchMatmulSite, View
from tvmopt.kernels.conv import ConvSite
from tvmopt.kernels.conv_transpose import ConvTransposeSite
from tvmopt.kernels.epilogue import Epilogue, Operand, Step
from tvmopt.kernels.gemm import GemmSite
from tvmopt.kernels.tile import Tile, choose_tile
from tvmopt.targets.description import CpuTarget

MACHINES = ["AVX2", "AVX512", "NEON"]
HARD_SWISH = Epilogue(
    (Operand.CHANNEL, Operand.TENSOR),
    (
        Step("add", (0, 1)),
        Step("add", (3, 3.0)),
        Step("max", (4, 0.0)),
        Step("min", (5, 6.0)),
        Step("mul", (3, 6)),
        Step("mul", (7, 1 / 6)),
        Step("add", (8, 2)),
    ),
)
CONV3 = ConvSite(
    batch=1, height=28, width=28, channels=64, out_channels=64, kernel=(3, 3), pads=(1, 1, 1, 1)
)


def _gemm(target: CpuTarget) -> tuple[tirx.PrimFunc, Tile]:
    site = GemmSite(m=784, k=64, n=192, epilogue=HARD_SWISH)
    how = gemm.config(site, target)
    return gemm.gemm(site, how, "f32_gemm"), how.tile


def _conv(target: CpuTarget) -> tuple[tirx.PrimFunc, Tile]:
    site = replace(CONV3, epilogue=HARD_SWISH)
    how = conv.config(site, target)
    return conv.conv(site, how, "f32_conv"), how.tile


def _first_conv(target: CpuTarget) -> tuple[tirx.PrimFunc, Tile]:
    shape = {"height": 224, "width": 224, "channels": 3, "kernel": (7, 7), "pads": (3, 3, 3, 3)}
    site = replace(CONV3, strides=(2, 2), planar=True, **shape)
    how = conv.config(site, target)
    return conv.conv(site, how, "f32_conv"), how.tile


def _winograd(target: CpuTarget) -> tuple[tirx.PrimFunc, Tile]:
    how = winograd.config(CONV3, 4, target)
    return winograd.winograd(CONV3, how, "f32_winograd"), how.tile


def _conv_transpose(target: CpuTarget) -> tuple[tirx.PrimFunc, Tile]:
    site = ConvTransposeSite(
        batch=1,
        height=28,
        width=28,
        channels=64,
        out_channels=32,
        kernel=(2, 2),
        strides=(2, 2),
        pads=(0, 0),
        dilation=(1, 1),
        groups=1,
        out_size=(56, 56),
    )
    how = conv_transpose.config(site, target)
    return conv_transpose.conv_transpose(site, how, "f32_conv_transpose"), how.tile


def _batch_matmul(target: CpuTarget) -> tuple[tirx.PrimFunc, Tile]:
    view = View(12 * 64 * 64, (64 * 64,), 64, 1)
    site = BatchMatmulSite(batch=(12,), m=64, k=64, n=64, left=view, right=view, output=view)
    return batch_matmul.batch_matmul(site, target, "f32_batch_matmul"), choose_tile(64, 64, target)


PRODUCTS = [_gemm, _conv, _first_conv, _winograd, _conv_transpose, _batch_matmul]
Make = Callable[[CpuTarget], tuple[tirx.PrimFunc, Tile]]


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("make", PRODUCTS, ids=lambda make: make.__name__[1:])
def test_the_hot_loop_is_multiply_adds_in_registers(
    kit: SimpleNamespace, make: Make, machine: str
) -> None:
    target = getattr(kit, machine)
    func, tile = make(target)
    step = tile.rows * tile.vectors
    # Where two tiles overlap, LLVM may leave out of one what the other computes again: look at a
    # loop of whole tiles.
    whole = [loop for loop in kit.hot_loops(func, target) if loop.multiply_adds(target) % step == 0]
    # Winograd's transforms multiply and add too, but among many loads: the densest loop is it.
    hot = max(whole, key=lambda loop: loop.multiply_adds(target) / len(loop.code))
    count = hot.multiply_adds(target)
    # Beside them a step loads each vector of the columns, spreads each row's element over a
    # register and addresses it, and counts; LLVM may unroll the step.
    assert len(hot.code) - count <= count // step * (2 * tile.rows + tile.vectors) + 8
    assert not hot.spills
    assert not hot.calls


@pytest.mark.parametrize("machine", MACHINES)
def test_a_depthwise_tile_multiplies_whole_registers(kit: SimpleNamespace, machine: str) -> None:
    target = getattr(kit, machine)
    site = replace(CONV3, out_channels=64, groups=64)
    how = depthwise.config(site, target)
    loops = kit.hot_loops(depthwise.depthwise(site, how, "f32_dwconv"), target)
    assert loops
    # Three taps a line of the kernel for each register of the tile.
    assert max(loop.multiply_adds(target) for loop in loops) % (how.pixels * how.vectors * 3) == 0
    # Tiles at the border test every tap; with registers of 512 bits LLVM spills there and clears
    # the sums by a call. The loop of the tiles inside, which most are, does neither.
    inside = min(loops, key=lambda loop: (len(loop.spills), len(loop.code)))
    assert not inside.calls


@pytest.mark.parametrize("parallel", [False, True])
def test_threads_do_not_cost_registers(kit: SimpleNamespace, parallel: bool) -> None:
    # A buffer of scope "local" inside a parallel loop once became a call that allocates.
    site = GemmSite(m=784, k=64, n=192)
    how = replace(gemm.config(site, kit.AVX2), parallel=parallel)
    func = gemm.gemm(site, how, "f32_gemm")
    assert "AllocWorkspace" not in kit.build(func, kit.AVX2).inspect_source("asm")
    loops = kit.hot_loops(func, kit.AVX2)
    assert loops
    assert not [loop.spills for loop in loops if loop.spills]
