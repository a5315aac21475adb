"""Mirror of tvmopt/kernels/conv.py."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tvmopt.kernels import conv
from tvmopt.kernels.blocks import RowBlocks
from tvmopt.kernels.conv import ConvConfig, ConvSite
from tvmopt.kernels.epilogue import Epilogue, Operand, Step

BIAS_RELU_RESIDUAL = Epilogue(
    (Operand.CHANNEL, Operand.TENSOR),
    (Step("add", (0, 1)), Step("max", (3, 0.0)), Step("add", (4, 2))),
)


def check(kit: SimpleNamespace, site: ConvSite, how: ConvConfig | None = None) -> None:
    how = how or conv.config(site, kit.HERE)
    rng = np.random.default_rng(site.macs)
    n, h, w, c = site.batch, site.height, site.width, site.channels
    x = rng.standard_normal((n, h, w, c)).astype(np.float32)
    weight = rng.standard_normal((site.out_channels, *site.kernel, site.group_channels))
    weight = weight.astype(np.float32)
    extra = kit.operands(site.epilogue, site.output_shape, rng)
    sums = kit.Bounded.dot(lambda a, b: kit.convolution(a, b, site), x, weight, site.taps)
    given_x = x.transpose(0, 3, 1, 2) if site.planar else x
    func = conv.conv(site, how, "f32_conv")
    got = kit.run(func, given_x, conv.pack(weight, site.groups, how.tile), *extra)
    kit.after(site.epilogue, sums, extra).check(got)


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def sites(draw: st.DrawFn) -> ConvSite:
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    site = ConvSite(
        batch=draw(st.integers(1, 2)),
        height=draw(st.integers(1, 9)),
        width=draw(st.integers(1, 9)),
        channels=groups * draw(st.integers(1, 7)),
        out_channels=groups * draw(st.integers(1, 19)),
        kernel=draw(st.tuples(st.integers(1, 4), st.integers(1, 4))),
        strides=draw(pairs),
        pads=draw(st.tuples(*[st.integers(0, 3)] * 4)),
        dilation=draw(pairs),
        groups=groups,
        planar=draw(st.booleans()),
        epilogue=draw(st.sampled_from([Epilogue(), BIAS_RELU_RESIDUAL])),
    )
    assume(min(site.out_size) >= 1)
    return site


def case(height: int, width: int, channels: int, out: int, edge: int, **other: object) -> ConvSite:
    given_ = {"batch": 1, "kernel": (edge, edge), **other}
    return ConvSite(height=height, width=width, channels=channels, out_channels=out, **given_)


@settings(derandomize=True, max_examples=12, deadline=None)
@given(site=sites(), parallel=st.booleans())
@example(site=case(1, 1, 3, 5, 3, pads=(1, 1, 1, 1)), parallel=False)  # kernel over image
@example(site=case(2, 3, 1, 1, 5, pads=(2, 2, 3, 2)), parallel=True)
@example(site=case(14, 14, 16, 32, 3, pads=(1, 1, 1, 1)), parallel=True)  # no tile crosses a line
@example(site=case(13, 11, 17, 33, 3, pads=(0, 2, 1, 0), batch=2), parallel=True)
@example(site=case(11, 11, 3, 16, 3, strides=(2, 2), pads=(1, 1, 1, 1), planar=True), parallel=True)
@example(site=case(9, 9, 8, 8, 3, dilation=(2, 2), pads=(2, 2, 2, 2)), parallel=False)
@example(site=case(1, 40, 6, 9, 1, kernel=(1, 7), pads=(0, 3, 0, 3)), parallel=False)  # a line
@example(site=case(8, 8, 12, 24, 3, groups=4, pads=(1, 1, 1, 1)), parallel=True)
@example(site=case(7, 7, 20, 12, 1, strides=(2, 2)), parallel=False)  # reads every other pixel
def test_any_convolution_is_within_its_rounding(
    kit: SimpleNamespace, site: ConvSite, parallel: bool
) -> None:
    check(kit, site, replace(conv.config(site, kit.HERE), parallel=parallel))


@pytest.mark.parametrize("per_block", [1, 3])
def test_blocks_and_prefetch_do_not_change_the_result(kit: SimpleNamespace, per_block: int) -> None:
    site = case(9, 10, 8, 40, 3, pads=(1, 0, 1, 0), batch=2)
    how = conv.config(site, kit.HERE)
    rows = RowBlocks(site.rows, how.tile.rows, per_block)
    check(kit, site, replace(how, rows=rows, prefetch=True, parallel=True))


def test_the_image_is_copied_only_where_it_must_be(kit: SimpleNamespace) -> None:
    plain = case(8, 8, 4, 8, 3)
    padded, planar = replace(plain, pads=(1, 1, 1, 1)), replace(plain, planar=True)
    scratch = [
        int(conv.conv(s, conv.config(s, kit.AVX2), "c").attrs["tvmopt.scratch_bytes"])
        for s in (plain, padded, planar)
    ]
    assert scratch == [0, 10 * 10 * 4 * 4, 8 * 8 * 4 * 4]


def test_predicted_cycles_bound_the_arithmetic_from_below(kit: SimpleNamespace) -> None:
    site = case(56, 56, 64, 64, 3, pads=(1, 1, 1, 1))
    cycles = conv.cycles(site, conv.config(site, kit.AVX2), kit.AVX2)
    peak = kit.AVX2.fma_per_cycle * kit.AVX2.lanes(32)
    assert site.macs / peak < cycles < 2 * site.macs / peak


def test_panels_keep_groups_apart(kit: SimpleNamespace) -> None:
    weight = np.repeat(np.arange(6, dtype=np.float32), 2 * 2 * 5).reshape(6, 2, 2, 5)
    tile = conv.config(case(5, 5, 10, 6, 2, groups=2), kit.AVX2).tile
    packed = conv.pack(weight, 2, tile)
    per_group = len(packed) // 2
    assert set(packed[:per_group].ravel()) == {0, 1, 2}
    assert set(packed[per_group:].ravel()) == {3, 4, 5}
