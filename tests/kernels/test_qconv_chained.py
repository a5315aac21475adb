"""Mirror of tvmopt/kernels/qconv_chained.py."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from tvmopt.kernels import qconv
from tvmopt.kernels.conv_site import ConvSite
from tvmopt.kernels.qconv_chained import best, chained
from tvmopt.kernels.qconv_site import QConvSite
from tvmopt.targets import resolve

PRODUCT = ConvSite(batch=1, height=1, width=13, channels=64, out_channels=40, kernel=(1, 1))
SITES = {
    "product": PRODUCT,
    "one column": replace(PRODUCT, out_channels=1),
    "3x3": ConvSite(
        batch=1,
        height=5,
        width=6,
        channels=8,
        out_channels=24,
        kernel=(3, 3),
        pads=(1, 1, 1, 1),
        strides=(1, 2),
    ),
    "grouped, dilated": ConvSite(
        batch=1,
        height=7,
        width=7,
        channels=32,
        out_channels=48,
        kernel=(3, 3),
        pads=(2, 2, 2, 2),
        dilation=(2, 2),
        groups=2,
    ),
}


@pytest.mark.isa("avx2")
@pytest.mark.parametrize("spread", [10, 25, 1000])
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("name", SITES)
def test_sums_are_exact(kit: SimpleNamespace, name: str, dtype: str, spread: int) -> None:
    rng = np.random.default_rng(spread)
    conv = SITES[name]
    shape = (conv.out_channels, *conv.kernel, conv.group_channels)
    weight = np.clip(np.rint(rng.standard_normal(shape) * spread), -64, 64).astype(np.int8)
    site = QConvSite(conv=conv, dtype=dtype, zero_point=3, largest=64)
    found = chained(site, weight, kit.HERE)
    assert found is not None
    how, (left, extra, places) = found
    limits = np.iinfo(dtype)
    x = rng.choice([limits.min, 3, limits.max], conv.input_shape).astype(dtype)
    bias = rng.integers(-1000, 1000, conv.out_channels)
    excess = (extra, places) if how.extra else ()
    constants = (left, *excess, qconv.pack_bias(bias, weight, site, how))
    got = kit.run(qconv.qconv(site, how, "kernel"), x, *constants)
    # All sums are below 2^24: float32 holds them.
    wanted = kit.convolution(x.astype(np.int64) - 3, weight.astype(np.int64), conv) + bias
    assert np.abs(wanted).max() < 2**24
    assert np.array_equal(got, wanted)


@pytest.mark.isa("avx2")
def test_the_largest_sums_do_not_saturate(kit: SimpleNamespace) -> None:
    site = QConvSite(conv=PRODUCT, dtype="uint8", zero_point=0, largest=64)
    x = np.full(PRODUCT.input_shape, 255, np.uint8)
    for sign in (1, -1):
        weight = np.full((40, 1, 1, 64), 64 * sign, np.int8)
        how, (left, extra, places) = chained(site, weight, kit.HERE)
        constants = (left, extra, places, qconv.pack_bias(np.zeros(40, int), weight, site, how))
        got = kit.run(qconv.qconv(site, how, "kernel"), x, *constants)
        assert (got == sign * 64 * 255 * 64).all()


def test_the_cheaper_way_is_taken(kit: SimpleNamespace) -> None:
    site = QConvSite(conv=replace(PRODUCT, channels=512), dtype="uint8", zero_point=0, largest=64)
    rng, bias = np.random.default_rng(0), np.zeros(40, np.int64)
    few = np.clip(rng.standard_normal((40, 1, 1, 512)) * 15, -64, 64).astype(np.int8)
    many = np.full((40, 1, 1, 512), 64, np.int8)
    assert best(site, few, bias, kit.AVX2)[0].dot.chained
    assert not best(site, many, bias, kit.AVX2)[0].dot.chained


@pytest.mark.parametrize(
    ("machine", "largest", "channels"),
    [
        ("x86-64-v3", 127, 64),  # one step alone may overflow
        ("x86-64-v3", 31, 64),  # two never do
        ("x86-64-v3", 64, 12),  # an odd count of steps
        ("x86-64-v3,+avxvnni", 64, 64),  # sums are of 32 bits from the start
        ("cortex-a76-pi5", 64, 64),
    ],
)
def test_where_another_way_is_as_good(machine: str, largest: int, channels: int) -> None:
    conv = replace(PRODUCT, channels=channels)
    site = QConvSite(conv=conv, dtype="uint8", zero_point=0, largest=largest)
    weight = np.zeros((40, 1, 1, channels), np.int8)
    assert chained(site, weight, resolve(machine)) is None


def test_two_products_share_a_widening(kit: SimpleNamespace) -> None:
    site = QConvSite(conv=replace(PRODUCT, width=64), dtype="uint8", zero_point=0, largest=64)
    how, _ = chained(site, np.ones((40, 1, 1, 64), np.int8), kit.AVX2)
    assert how.extra == 0
    assembly = kit.build(qconv.qconv(site, how, "kernel"), kit.AVX2).inspect_source("asm")
    count = {op: assembly.count(f"\t{op}\t") for op in ("vpmaddubsw", "vpmaddwd")}
    assert count["vpmaddubsw"] == 2 * count["vpmaddwd"] > 0
