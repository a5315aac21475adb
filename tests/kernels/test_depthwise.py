"""Mirror of tvmopt/kernels/depthwise.py."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tvmopt.kernels import depthwise
from tvmopt.kernels.conv import ConvSite
from tvmopt.kernels.depthwise_start import pack_start, split_bias
from tvmopt.kernels.epilogue import Epilogue, Operand, Requantize, Step

BIAS_RESIDUAL_RELU6 = Epilogue(
    (Operand.CHANNEL, Operand.TENSOR),
    (Step("add", (0, 1)), Step("add", (3, 2)), Step("max", (4, 0.0)), Step("min", (5, 6.0))),
)


def case(height: int, width: int, channels: int, edge: int, **other: object) -> ConvSite:
    given_ = {"batch": 1, "kernel": (edge, edge), **other}
    size = {"channels": channels, "out_channels": channels, "groups": channels}
    return ConvSite(height=height, width=width, **size, **given_)


@st.composite
def sites(draw: st.DrawFn) -> ConvSite:
    steps = st.tuples(st.integers(1, 3), st.integers(1, 3))
    site = case(
        draw(st.integers(1, 12)),
        draw(st.integers(1, 12)),
        draw(st.integers(1, 37)),
        1,
        batch=draw(st.integers(1, 2)),
        kernel=draw(st.tuples(st.integers(1, 4), st.integers(1, 4))),
        strides=draw(steps),
        pads=draw(st.tuples(*[st.integers(0, 3)] * 4)),
        dilation=draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (1, 2), (2, 3)])),
        epilogue=draw(st.sampled_from([Epilogue(), BIAS_RESIDUAL_RELU6])),
    )
    assume(min(site.out_size) >= 1)
    return site


@settings(derandomize=True, max_examples=8, deadline=None)
@given(site=sites(), parallel=st.booleans())
@example(site=case(1, 1, 5, 3, pads=(1, 1, 1, 1)), parallel=False)  # all but one tap outside
@example(site=case(2, 2, 9, 7, pads=(3, 3, 3, 3)), parallel=False)
@example(site=case(6, 30, 24, 3, pads=(1, 1, 1, 1)), parallel=True)  # two registers a pixel
@example(site=case(7, 45, 19, 5, strides=(2, 2), pads=(1, 2, 2, 1), batch=2), parallel=True)
@example(site=case(12, 12, 8, 1, strides=(3, 3)), parallel=False)  # columns that no tap reads
@example(site=case(3, 9, 4, 3, pads=(3, 3, 3, 3)), parallel=False)  # pixels with no tap inside
def test_any_depthwise_convolution_is_within_its_rounding(
    kit: SimpleNamespace, site: ConvSite, parallel: bool
) -> None:
    rng = np.random.default_rng(site.macs)
    x = rng.standard_normal(site.input_shape).astype(np.float32)
    weight = rng.standard_normal((site.channels, *site.kernel, 1)).astype(np.float32)
    extra = kit.operands(site.epilogue, site.output_shape, rng)
    sums = kit.Bounded.dot(lambda a, b: kit.convolution(a, b, site), x, weight, site.taps)
    how = replace(depthwise.config(site, kit.HERE), parallel=parallel)
    got = kit.run(depthwise.depthwise(site, how, "f32_dw"), x, depthwise.pack(weight, how), *extra)
    kit.after(site.epilogue, sums, extra).check(got)


SCALED = (Step("scale", (0, 1)),)
RESIDUAL = (
    Step("scale", (0, 1)),
    Step("sub", (2, 131.0)),
    Step("scale", (4, 0.0371)),
    Step("add", (3, 5)),
)
TO_BYTES = Requantize(dtype="uint8", zero_point=7, low=7, high=250)
INTEGER = {
    "scaled": Epilogue((Operand.CHANNEL,), SCALED, ("float32",), TO_BYTES),
    "residual": Epilogue(
        (Operand.CHANNEL, Operand.TENSOR), RESIDUAL, ("float32", "uint8"), TO_BYTES
    ),
    "sums": Epilogue(),
}


@settings(derandomize=True, max_examples=8, deadline=None)
@given(
    site=sites(),
    epilogue=st.sampled_from(sorted(INTEGER)),
    dtype=st.sampled_from(["uint8", "int8"]),
    zero=st.sampled_from([0.0, 0.4, 1.0]),
)
@example(case(1, 1, 5, 3, pads=(1, 1, 1, 1)), "residual", "uint8", 1.0)
@example(case(9, 30, 24, 3, pads=(1, 1, 1, 1)), "scaled", "uint8", 0.0)  # two registers a pixel
@example(case(9, 15, 19, 5, strides=(2, 2), pads=(1, 2, 2, 1)), "residual", "int8", 0.4)
@example(case(8, 8, 16, 5, pads=(2, 2, 2, 2)), "sums", "uint8", 0.4)
def test_integers_are_exact(
    kit: SimpleNamespace, site: ConvSite, epilogue: str, dtype: str, zero: float
) -> None:
    info, rng = np.iinfo(dtype), np.random.default_rng(site.macs)
    site = replace(
        site,
        epilogue=INTEGER[epilogue],
        dtype=dtype,
        zero_point=round(info.min + zero * (info.max - info.min)),
    )
    x = rng.choice([info.min, info.max, *rng.integers(info.min, info.max, 3)], site.input_shape)
    x = x.astype(dtype)
    weight = rng.integers(-128, 128, (site.channels, *site.kernel, 1)).astype(np.int8)
    bias = rng.integers(-(10**6), 10**6, site.channels)
    start, added = split_bias(site, weight, bias)
    assert not added.any()
    sums = kit.convolution(x.astype(np.int64) - site.zero_point, weight.astype(np.int64), site)
    scales = rng.uniform(1e-4, 1e-3, site.channels).astype(np.float32)
    residual = rng.integers(0, 256, site.output_shape).astype(np.uint8)
    extra = [scales, residual][: len(site.epilogue.operands)]
    how = depthwise.config(site, kit.HERE)
    func = depthwise.depthwise(site, how, "qu8_dwconv")
    packed = depthwise.pack(weight, how).astype(np.float32)
    first = pack_start(site, weight, start)
    got = kit.run(func, x, packed, first, *extra)
    assert np.array_equal(got, _requantized(epilogue, sums + bias, extra))


def _requantized(epilogue: str, sums: np.ndarray, extra: list[np.ndarray]) -> np.ndarray:
    """Return what the epilogue makes of exact sums; one float32 rounding an operation."""
    value = sums.astype(np.float32)
    if epilogue == "sums":
        return value
    value = value * extra[0]
    if epilogue == "residual":
        value = value + (extra[1].astype(np.float32) - np.float32(131)) * np.float32(0.0371)
    assert value.dtype == np.float32
    return np.clip(np.rint(value) + 7, 7, 250).astype(np.uint8)


@pytest.mark.parametrize("machine", ["AVX2", "AVX512", "NEON"])
@pytest.mark.parametrize("edge", [3, 5])
def test_integers_are_multiplied_and_added_in_registers(
    kit: SimpleNamespace, machine: str, edge: int
) -> None:
    target = getattr(kit, machine)
    site = case(14, 14, 64, edge, pads=(edge // 2,) * 4, epilogue=INTEGER["scaled"], dtype="uint8")
    func = depthwise.depthwise(site, depthwise.config(site, target), "qu8_dwconv")
    loops = kit.hot_loops(func, target)
    assert loops
    assert not [line for loop in loops for line in loop.calls]


@settings(derandomize=True, max_examples=100, deadline=None)
@given(
    site=sites(),
    machine=st.sampled_from(["AVX2", "AVX512", "NEON"]),
    dtype=st.sampled_from(["float32", "uint8"]),
)
def test_a_tile_fits_the_line_and_the_channels(
    kit: SimpleNamespace, site: ConvSite, machine: str, dtype: str
) -> None:
    target = getattr(kit, machine)
    how = depthwise.config(replace(site, dtype=dtype), target)
    assert 1 <= how.pixels <= site.out_size[1]
    assert how.lanes * how.vectors <= site.channels
    # Sums stay in registers with one input; those of integers, one register of channels at a time.
    sums = how.pixels * (how.vectors if dtype == "float32" else 1)
    assert sums + 1 <= target.vector_registers


@pytest.mark.parametrize(
    "change",
    [{"out_channels": 16}, {"groups": 4}, {"planar": True}],
    ids=["multiplier", "groups of two", "planar"],
)
def test_other_convolutions_are_refused(kit: SimpleNamespace, change: dict[str, object]) -> None:
    site = case(6, 6, 8, 3)
    how = depthwise.config(site, kit.AVX2)
    assert depthwise.applies(site)
    assert not depthwise.applies(replace(site, **change))
    with pytest.raises(AssertionError, match="is not depthwise"):
        depthwise.depthwise(replace(site, **change), how, "f32_dw")


def test_lines_of_taps_outside_of_the_image_are_not_counted(kit: SimpleNamespace) -> None:
    flat, tall = (case(h, 24, 8, 5, pads=(2, 2, 2, 2)) for h in (2, 24))
    # The two windows of two lines see both of them; the outer ones of 24 lose 2 + 1 + 1 + 2.
    assert depthwise.lines_inside(flat) == 2
    assert depthwise.lines_inside(tall) == (24 * 5 - 6) / 24
    each = [
        depthwise.cycles(site, depthwise.config(site, kit.AVX2), kit.AVX2) / site.out_size[0]
        for site in (flat, tall)
    ]
    assert each[0] < each[1]


def test_pixels_a_power_of_two_apart_crowd_each_other_out(kit: SimpleNamespace) -> None:
    def lines(channels: int, taps: int) -> float:
        site = case(14, 14, channels, taps, pads=(taps // 2,) * 4)
        return depthwise.fetched_again(site, depthwise.config(site, kit.AVX2), kit.AVX2)

    # 1 KiB apart, pixels have 4 places of 8 lines: enough for 3 lines of 9 pixels, not 5 of 11.
    assert lines(256, 3) == 0
    assert lines(256, 5) == pytest.approx(11 * (14 * 5 - 6) / 14)
    assert lines(264, 5) == 0


def test_a_stride_and_many_taps_take_longer_than_their_products(kit: SimpleNamespace) -> None:
    def tile(kernel: int, stride: int) -> float:
        site = replace(case(56, 56, 8, kernel), strides=(stride, stride))
        how = depthwise.config(site, kit.AVX2)
        tiles = site.out_size[0] * site.out_size[1] / how.pixels
        return depthwise.cycles(site, how, kit.AVX2) / tiles / site.macs * site.rows * 8

    assert tile(3, 1) < tile(3, 2) < tile(5, 2)
