"""Mirror of tvmopt/kernels/sparse_conv.py."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from tvmopt.kernels import sparse_conv
from tvmopt.kernels.conv_site import ConvSite
from tvmopt.kernels.epilogue import Epilogue, Operand, Step
from tvmopt.kernels.sparse_conv import SparseConvConfig, SparseConvSite
from tvmopt.kernels.tile import FMA_LATENCY
from tvmopt.targets.description import CpuTarget

BIASED = Epilogue((Operand.CHANNEL,), (Step("add", (0, 1)), Step("max", (2, 0.0))))
PRODUCT = ConvSite(
    batch=1, height=1, width=29, channels=40, out_channels=48, kernel=(1, 1), epilogue=BIASED
)
SITES = {
    "product": PRODUCT,
    "one row": replace(PRODUCT, width=1),
    "two rows": replace(PRODUCT, width=2),
    # A line of 11 pixels that no tile divides: each row finds its own place.
    "3x3": ConvSite(
        batch=2,
        height=5,
        width=11,
        channels=8,
        out_channels=24,
        kernel=(3, 3),
        pads=(1, 1, 1, 1),
        epilogue=BIASED,
    ),
    "1x1, strided": ConvSite(
        batch=1,
        height=8,
        width=8,
        channels=20,
        out_channels=16,
        kernel=(1, 1),
        strides=(2, 2),
        epilogue=BIASED,
    ),
}


def pruned(conv: ConvSite, zeros: float) -> np.ndarray:
    """Return weights (o, kh, kw, c) with so many columns of 8 outputs that are 0."""
    rng = np.random.default_rng(0)
    shape = (conv.out_channels, *conv.kernel, conv.channels)
    drawn = rng.standard_normal(shape)
    kept = rng.random((conv.out_channels // 8, drawn[0].size)) >= zeros
    return (drawn * np.repeat(kept, 8, 0).reshape(shape)).astype(np.float32)


def made(
    conv: ConvSite, weight: np.ndarray, width: int, target: CpuTarget
) -> tuple[SparseConvSite, SparseConvConfig, tuple[np.ndarray, ...]]:
    """Return the listed site, how it is computed, and the lists."""
    steps = sparse_conv.pack(weight, conv, width, target)
    how = sparse_conv.config(conv, width, steps.count, target)
    assert how is not None
    site = SparseConvSite(conv=conv, steps=steps.count, index=str(steps.offsets.dtype))
    return site, how, (steps.weights, steps.offsets, steps.panels)


@pytest.mark.parametrize("zeros", [0.0, 0.8, 1.0])
@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("name", SITES)
def test_sums_are_within_their_rounding(
    kit: SimpleNamespace, name: str, width: int, zeros: float
) -> None:
    conv = SITES[name]
    weight = pruned(conv, zeros)
    if sparse_conv.config(conv, width, 1, kit.HERE) is None:
        pytest.skip("there are fewer outputs than a block has")
    site, how, lists = made(conv, weight, width, kit.HERE)
    rng = np.random.default_rng(1)
    x = rng.standard_normal(conv.input_shape).astype(np.float32)
    extra = kit.operands(conv.epilogue, conv.output_shape, rng)
    got = kit.run(sparse_conv.sparse_conv(site, how, "kernel"), x, *lists, *extra)
    sums = kit.Bounded.dot(lambda a, b: kit.convolution(a, b, conv), x, weight, conv.taps)
    kit.after(conv.epilogue, sums, extra).check(got)


@pytest.mark.parametrize("machine", ["AVX2", "AVX512"])
@pytest.mark.parametrize("name", ["product", "3x3"])
def test_the_hot_loop_neither_spills_nor_gathers_addresses(
    kit: SimpleNamespace, name: str, machine: str
) -> None:
    target, conv = getattr(kit, machine), SITES[name]
    site, how, _ = made(conv, pruned(conv, 0.5), 1, target)
    loops = kit.hot_loops(sparse_conv.sparse_conv(site, how, "kernel"), target)
    assert any(loop.multiply_adds(target) >= how.tile.rows - 1 for loop in loops)
    for loop in loops:
        assert not loop.spills
        assert not loop.calls
        # Addresses are not put together in vectors and taken apart again.
        assert not loop.count(r"vpextr|vpaddd")


@pytest.mark.parametrize("machine", ["AVX2", "AVX512", "NEON"])
def test_the_sums_of_a_single_row_do_not_wait_for_each_other(
    kit: SimpleNamespace, machine: str
) -> None:
    target, conv = getattr(kit, machine), replace(PRODUCT, width=1)
    site, how, _ = made(conv, pruned(conv, 0.5), 1, target)
    assert how.sets * how.tile.vectors >= FMA_LATENCY * target.fma_per_cycle
    loops = kit.hot_loops(sparse_conv.sparse_conv(site, how, "kernel"), target)
    sums = {
        re.split(r"[\s,.]+", line)[1 if machine == "NEON" else -1]
        for loop in loops
        for line in loop.code
        if re.match(r"vfmadd\w+ps|fmla", line)
    }
    assert len(sums) >= how.sets * how.tile.vectors


def test_an_arm_build_multiplies_and_adds_in_one(kit: SimpleNamespace) -> None:
    site, how, _ = made(PRODUCT, pruned(PRODUCT, 0.5), 1, kit.NEON)
    loops = kit.hot_loops(sparse_conv.sparse_conv(site, how, "kernel"), kit.NEON)
    assert any(loop.multiply_adds(kit.NEON) >= how.tile.rows - 1 for loop in loops)
    assert not any(loop.calls for loop in loops)


def test_a_tile_ends_with_the_line_where_that_costs_little(kit: SimpleNamespace) -> None:
    conv = replace(SITES["3x3"], width=56, height=56, channels=64, out_channels=64)
    how = sparse_conv.config(conv, 2, 4 * 12, kit.AVX2)
    assert how is not None
    assert 56 % how.tile.rows == 0
