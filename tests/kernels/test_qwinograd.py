"""Mirror of tvmopt/kernels/qwinograd.py: every result equals exact integer arithmetic."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tvmopt.kernels import qwinograd
from tvmopt.kernels.conv_site import ConvSite
from tvmopt.kernels.epilogue import Epilogue, Operand, Requantize, Step
from tvmopt.kernels.qconv_site import QConvSite
from tvmopt.kernels.winograd_transforms import (
    INPUT_TRANSFORM,
    SCALED_OUTPUT_TRANSFORM,
    SCALED_SHIFT,
    transform_weight_scaled,
)
from tvmopt.targets import get

OUTPUT = Requantize(dtype="uint8", zero_point=9, low=3, high=250)
SCALED = Epilogue((Operand.CHANNEL,), (Step("scale", (0, 1)),), ("float32",), OUTPUT)


def exact(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, site: QConvSite) -> np.ndarray:
    """Return the sums in 64 bits."""
    conv = site.conv
    top, left, bottom, right = conv.pads
    real = x.astype(np.int64) - site.zero_point
    real = np.pad(real, ((0, 0), (top, bottom), (left, right), (0, 0)))
    height, width = conv.out_size
    sums = np.zeros(conv.output_shape, np.int64) + bias
    for i in range(3):
        for j in range(3):
            sums += real[:, i : i + height, j : j + width] @ weight[:, i, j].T
    return sums


def check(kit: SimpleNamespace, site: QConvSite, m: int, x: np.ndarray, weight: np.ndarray) -> None:
    conv = site.conv
    assert qwinograd.applies(site, weight, m)
    rng = np.random.default_rng(conv.macs)
    bias = rng.integers(-(2**20), 2**20, conv.out_channels)
    scale = (rng.random(conv.out_channels) * 1e-3 + 1e-5).astype(np.float32)
    how = qwinograd.config(site, m, kit.HERE)
    start = (bias - site.zero_point * weight.sum((1, 2, 3))).astype(np.int32)
    func = qwinograd.qwinograd(site, how, "k", kit.HERE)
    packed = qwinograd.pack(weight, how, kit.HERE)
    operands = [scale] if conv.epilogue.operands else []
    got = kit.run(func, x, packed, start, *operands)
    sums = exact(x, weight, bias, site).astype(np.float32)
    if conv.epilogue == SCALED:
        sums = np.clip(np.rint(sums * scale) + OUTPUT.zero_point, OUTPUT.low, OUTPUT.high)
    assert np.array_equal(got, sums.astype(got.dtype)), f"{(got != sums).mean():.1%} differ"


def case(height: int, width: int, channels: int, out: int, **other: object) -> QConvSite:
    conv = {"batch": 1, "pads": (1, 1, 1, 1), "epilogue": SCALED, **other}
    site = ConvSite(
        height=height, width=width, channels=channels, out_channels=out, kernel=(3, 3), **conv
    )
    return QConvSite(conv=site, dtype="uint8", zero_point=117, largest=127)


@st.composite
def sites(draw: st.DrawFn) -> QConvSite:
    site = case(
        draw(st.integers(1, 11)),
        draw(st.integers(1, 11)),
        2 * draw(st.integers(1, 17)),
        draw(st.integers(8, 37)),
        batch=draw(st.integers(1, 2)),
        pads=draw(st.tuples(*[st.integers(0, 2)] * 4)),
        epilogue=draw(st.sampled_from([Epilogue(), SCALED])),
    )
    assume(min(site.conv.out_size) >= 1)
    return site


@settings(max_examples=20, derandomize=True, deadline=None)
@given(site=sites(), m=st.sampled_from([2, 4]), dtype=st.sampled_from(["uint8", "int8"]))
def test_any_shape_is_exact(kit: SimpleNamespace, site: QConvSite, m: int, dtype: str) -> None:
    conv = site.conv
    site = QConvSite(conv=conv, dtype=dtype, zero_point=100, largest=127)
    rng = np.random.default_rng(conv.macs)
    info = np.iinfo(dtype)
    x = rng.integers(info.min, info.max + 1, conv.input_shape).astype(dtype)
    weight = rng.integers(-127, 128, (conv.out_channels, 3, 3, conv.channels))
    check(kit, site, m, x, weight)


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("sign", [1, -1])
def test_sums_as_large_as_are_admitted_come_back(kit: SimpleNamespace, m: int, sign: int) -> None:
    # The largest admitted sum: 255 * sum |w| < 2**31 >> 2 * shift. Transformed, it leaves 32 bits
    # on the way: only modulo 2**32 does it come back.
    channels = 64
    most = ((2**31 - 1) >> 2 * SCALED_SHIFT[m][0]) // 255
    each = min(127, most // (9 * channels))
    weight = np.full((8, 3, 3, channels), sign * each)
    weight[:, 0, 0, 0] += sign * min(127 - each, most - 9 * channels * each)
    x = np.full((1, 9, 9, channels), 255, np.uint8)
    check(kit, case(9, 9, channels, 8), m, x, weight)


def test_larger_sums_are_refused() -> None:
    weight = np.full((8, 3, 3, 160), 127)
    assert 255 * 9 * 160 * 127 >= 2**31 >> 6
    assert not qwinograd.applies(case(9, 9, 160, 8), weight, 4)
    assert qwinograd.applies(case(9, 9, 160, 8), weight, 2)


@pytest.mark.parametrize(
    "site", [case(9, 9, 15, 8), case(9, 9, 16, 7), case(9, 9, 16, 8, strides=(2, 2))]
)
def test_other_sites_are_refused(site: QConvSite) -> None:
    weight = np.ones((site.conv.out_channels, 3, 3, site.conv.channels), np.int64)
    assert not qwinograd.applies(site, weight, 4)


@pytest.mark.parametrize("m", [2, 4])
def test_the_scaled_transforms_give_a_known_multiple(m: int) -> None:
    rng = np.random.default_rng(m)
    d = rng.integers(0, 256, (m + 2, m + 2))
    g = rng.integers(-127, 128, (1, 3, 3, 1))
    moved = INPUT_TRANSFORM[m].astype(np.int64) @ d @ INPUT_TRANSFORM[m].astype(np.int64).T
    q = moved * transform_weight_scaled(g, m)[:, 0, 0].reshape(m + 2, m + 2)
    got = SCALED_OUTPUT_TRANSFORM[m] @ q @ SCALED_OUTPUT_TRANSFORM[m].T
    windows = np.lib.stride_tricks.sliding_window_view(d, (3, 3))
    expected = np.einsum("hwij,ij->hw", windows, g[0, :, :, 0])
    factor = (3 if m == 4 else 1) * 2 ** np.array(SCALED_SHIFT[m])
    assert np.array_equal(got, expected * np.outer(factor, factor))


@pytest.mark.parametrize("m", [2, 4])
def test_every_transformed_value_fits_16_bits(m: int) -> None:
    # The signs of a row decide whether 0 or 255 is the worst input.
    rows = np.kron(INPUT_TRANSFORM[m], INPUT_TRANSFORM[m])
    assert 255 * np.maximum(rows, 0).sum(1).max() <= 2**15 - 1
    assert 255 * np.maximum(-rows, 0).sum(1).max() <= 2**15


def test_arm_multiplies_16_bit_values(kit: SimpleNamespace) -> None:
    target = get("cortex-a76-pi5")
    site = case(16, 16, 32, 32)
    func = qwinograd.qwinograd(site, qwinograd.config(site, 4, target), "k", target)
    loops = kit.inner_loops(kit.build(func, target).inspect_source("asm"))
    assert any("smlal" in line for loop in loops for line in loop.code)
