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
from tvmopt.kernels.epilogue import Epilogue, Operand, Step

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
    got = kit.run(depthwise.depthwise(site, how, "f32_dw"), x, depthwise.pack(weight), *extra)
    kit.after(site.epilogue, sums, extra).check(got)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(site=sites(), machine=st.sampled_from(["AVX2", "AVX512", "NEON"]))
def test_a_tile_fits_the_line_and_the_channels(
    kit: SimpleNamespace, site: ConvSite, machine: str
) -> None:
    target = getattr(kit, machine)
    how = depthwise.config(site, target)
    assert 1 <= how.pixels <= site.out_size[1]
    assert how.lanes * how.vectors <= site.channels
    # Sums, and the weights of one line of taps, stay in registers with one input.
    assert how.pixels * how.vectors + 1 <= target.vector_registers


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
