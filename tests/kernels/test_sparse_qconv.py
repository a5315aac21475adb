"""Mirror of tvmopt/kernels/sparse_qconv.py: every result equals exact integer arithmetic."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from tvmopt.kernels import qconv, sparse_qconv
from tvmopt.kernels.conv_site import ConvSite
from tvmopt.kernels.dot import Dot, chained_dot, choose_dot
from tvmopt.kernels.qconv_site import QConvSite
from tvmopt.kernels.sparse_qconv import SparseQConvSite
from tvmopt.targets import get
from tvmopt.targets.description import CpuTarget

PRODUCT = ConvSite(batch=1, height=1, width=13, channels=64, out_channels=40, kernel=(1, 1))
SITES = {
    "product": PRODUCT,
    "one row": replace(PRODUCT, width=1),
    "3x3": ConvSite(
        batch=2,
        height=5,
        width=6,
        channels=8,
        out_channels=24,
        kernel=(3, 3),
        pads=(1, 1, 1, 1),
        strides=(1, 2),
    ),
    "1x1, strided": ConvSite(
        batch=1, height=8, width=8, channels=20, out_channels=16, kernel=(1, 1), strides=(2, 2)
    ),
}


def made(
    site: QConvSite, weight: np.ndarray, width: int, target: CpuTarget, dot: Dot | None = None
) -> tuple[SparseQConvSite, qconv.QConvConfig, tuple[np.ndarray, ...]]:
    """Return the listed site, how it is computed, and the lists."""
    how = sparse_qconv.config(site, width, 1, target, dot)
    assert how is not None
    steps = sparse_qconv.pack(weight, site, how)
    how = sparse_qconv.config(site, width, steps.count, target, dot)
    assert how is not None
    listed = SparseQConvSite(qconv=site, steps=steps.count, index=str(steps.offsets.dtype))
    return listed, how, (steps.weights, steps.offsets, steps.panels)


def pruned(conv: ConvSite, spread: float, zeros: float, seed: int = 0) -> np.ndarray:
    """Return 7-bit weights with so many columns of 4 inputs of 8 outputs that are 0."""
    rng = np.random.default_rng(seed)
    shape = (conv.out_channels, *conv.kernel, conv.channels)
    drawn = np.clip(np.rint(rng.standard_normal(shape) * spread), -64, 64)
    kept = rng.random((conv.out_channels // 8, drawn[0].size // 4)) >= zeros
    return (drawn * np.kron(kept, np.ones((8, 4))).reshape(shape)).astype(np.int8)


def check(kit: SimpleNamespace, site: QConvSite, weight: np.ndarray, width: int, dot: Dot) -> None:
    conv = site.conv
    listed, how, lists = made(site, weight, width, kit.HERE, dot)
    rng, limits = np.random.default_rng(1), np.iinfo(site.dtype)
    x = rng.choice([limits.min, 3, limits.max], conv.input_shape).astype(site.dtype)
    bias = rng.integers(-1000, 1000, conv.out_channels)
    start = qconv.pack_bias(bias, weight, site, how)
    got = kit.run(sparse_qconv.sparse_qconv(listed, how, "kernel"), x, *lists, start)
    real = x.astype(np.int64) - site.zero_point
    # The padding holds the zero point, which stands for 0.
    wanted = kit.convolution(real, weight.astype(np.int64), conv) + bias
    # All sums are below 2^24: float32 holds them.
    assert np.abs(wanted).max() < 2**24
    assert np.array_equal(got, wanted)


@pytest.mark.isa("avx2")
@pytest.mark.parametrize("spread", [10, 25, 1000])
@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("name", SITES)
def test_sums_of_chained_steps_are_exact(
    kit: SimpleNamespace, name: str, width: int, spread: int
) -> None:
    site = QConvSite(conv=SITES[name], dtype="uint8", zero_point=3, largest=64)
    dot = chained_dot(kit.HERE, 64)
    assert dot is not None
    weight = pruned(SITES[name], spread, 0.5)
    if SITES[name].out_channels >= width * dot.lanes:
        check(kit, site, weight, width, dot)


@pytest.mark.isa("avx2")
@pytest.mark.parametrize("largest", [7, 64, 127])
def test_every_kind_of_step_is_exact(kit: SimpleNamespace, largest: int) -> None:
    weight = np.clip(pruned(PRODUCT, 1000, 0.6), -largest, largest)
    for dtype in ("uint8", "int8"):
        site = QConvSite(conv=PRODUCT, dtype=dtype, zero_point=3, largest=largest)
        check(kit, site, weight, 1, None)


@pytest.mark.isa("avx2")
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sums_do_not_saturate(kit: SimpleNamespace, sign: int) -> None:
    site = QConvSite(conv=PRODUCT, dtype="uint8", zero_point=0, largest=64)
    weight = np.full((40, 1, 1, 64), 64 * sign, np.int8)
    listed, how, lists = made(site, weight, 2, kit.HERE, chained_dot(kit.HERE, 64))
    x = np.full(PRODUCT.input_shape, 255, np.uint8)
    start = qconv.pack_bias(np.zeros(40, int), weight, site, how)
    got = kit.run(sparse_qconv.sparse_qconv(listed, how, "kernel"), x, *lists, start)
    assert (got == sign * 64 * 255 * 64).all()


@pytest.mark.parametrize("size", [14, 28, 56])
@pytest.mark.parametrize("largest", [7, 64])
def test_many_rows_never_have_an_address_each(
    kit: SimpleNamespace, largest: int, size: int
) -> None:
    conv = replace(SITES["3x3"], width=size, height=size, channels=64, out_channels=64)
    site = QConvSite(
        conv=replace(conv, strides=(1, 1)), dtype="uint8", zero_point=3, largest=largest
    )
    how = sparse_qconv.config(site, 2, 4 * 40, kit.AVX2)
    assert how is not None
    assert how.tile.rows < sparse_qconv.ADDRESS_ROWS or size % how.tile.rows == 0


@pytest.mark.parametrize(
    ("target", "largest", "instruction"),
    [
        ("x86-64-v3", 64, "vpmaddubsw"),
        ("x86-64-v3", 100, "vpmaddwd"),
        ("x86-64-v4", 64, "vpmaddubsw"),
        ("zen4", 127, "vpdpbusd"),
        ("alder-lake", 127, "vpdpbusd"),
        ("cortex-a76-pi5", 127, "sdot"),
        ("neoverse-v1", 127, "usdot"),
        ("cortex-a72-pi4", 127, "mlal"),
    ],
)
def test_the_inner_loop_multiplies_by_the_best_instruction(
    kit: SimpleNamespace, target: str, largest: int, instruction: str
) -> None:
    machine, conv = get(target), replace(PRODUCT, width=64)
    site = QConvSite(conv=conv, dtype="uint8", zero_point=3, largest=largest)
    listed, how, _ = made(site, pruned(conv, 20, 0.5), 1, machine)
    func = sparse_qconv.sparse_qconv(listed, how, "kernel")
    loops = kit.inner_loops(kit.build(func, machine).inspect_source("asm"))
    hot = [loop for loop in loops if any(instruction in line for line in loop.code)]
    assert hot, f"no loop of {target} holds {instruction}"
    assert not any(loop.calls for loop in hot)


def test_two_steps_share_a_widening(kit: SimpleNamespace) -> None:
    conv = replace(PRODUCT, width=64)
    site = QConvSite(conv=conv, dtype="uint8", zero_point=3, largest=64)
    dot = chained_dot(kit.AVX2, 64)
    listed, how, _ = made(site, pruned(conv, 20, 0.5), 2, kit.AVX2, dot)
    func = sparse_qconv.sparse_qconv(listed, how, "kernel")
    assembly = kit.build(func, kit.AVX2).inspect_source("asm")
    count = {op: assembly.count(f"\t{op}\t") for op in ("vpmaddubsw", "vpmaddwd")}
    assert count["vpmaddubsw"] == 2 * count["vpmaddwd"] > 0


def test_what_is_spilled_does_not_lie_across_cache_lines(kit: SimpleNamespace) -> None:
    conv = replace(PRODUCT, width=49)
    site = QConvSite(conv=conv, dtype="uint8", zero_point=3, largest=64)
    listed, how, _ = made(site, pruned(conv, 20, 0.5), 2, kit.AVX2, chained_dot(kit.AVX2, 64))
    assert how.tile.rows == 7  # more sums than there are registers beside the weights
    func = sparse_qconv.sparse_qconv(listed, how, "kernel")
    assembly = kit.build(func, kit.AVX2).inspect_source("asm")
    assert re.search(r"andq\s+\$-\d+, %rsp", assembly)
    assert not re.search(r"vmov\w*u\w*\s+(%ymm\d+, )?-?\d*\(%rsp\)", assembly)


def test_a_plain_tile_keeps_all_its_registers(kit: SimpleNamespace) -> None:
    conv = replace(PRODUCT, width=64)
    site = QConvSite(conv=conv, dtype="uint8", zero_point=3, largest=64)
    listed, how, _ = made(site, pruned(conv, 20, 0.5), 2, kit.AVX2, choose_dot(kit.AVX2, 64))
    func = sparse_qconv.sparse_qconv(listed, how, "kernel")
    hot = [loop for loop in kit.loops(func, kit.AVX2) if loop.count("vpmaddubsw")]
    assert hot
    assert not any("%ymm" in line for loop in hot for line in loop.spills)
