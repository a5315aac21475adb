"""Mirror of tvmopt/kernels/winograd.py."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tvmopt.kernels import conv, winograd
from tvmopt.kernels.conv import ConvSite
from tvmopt.kernels.epilogue import Epilogue, Operand, Step
from tvmopt.kernels.tile import choose_tile
from tvmopt.kernels.winograd_transforms import (
    INPUT_TRANSFORM,
    OUTPUT_TRANSFORM,
    WEIGHT_TRANSFORM,
)

BIAS_RESIDUAL_RELU = Epilogue(
    (Operand.CHANNEL, Operand.TENSOR),
    (Step("add", (0, 1)), Step("add", (3, 2)), Step("max", (4, 0.0))),
)


def case(height: int, width: int, channels: int, out: int, **other: object) -> ConvSite:
    plain = {"batch": 1, "pads": (1, 1, 1, 1), "kernel": (3, 3)}
    shape = {"height": height, "width": width, "channels": channels, "out_channels": out}
    return ConvSite(**shape, **{**plain, **other})


@st.composite
def sites(draw: st.DrawFn) -> ConvSite:
    site = case(
        draw(st.integers(1, 11)),
        draw(st.integers(1, 11)),
        draw(st.integers(1, 19)),
        draw(st.integers(1, 21)),
        batch=draw(st.integers(1, 2)),
        pads=draw(st.tuples(*[st.integers(0, 2)] * 4)),
        epilogue=draw(st.sampled_from([Epilogue(), BIAS_RESIDUAL_RELU])),
    )
    assume(min(site.out_size) >= 1)
    return site


def bound(kit: SimpleNamespace, site: ConvSite, m: int, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return the largest error of F(m, 3), (n, out_h, out_w, o).

    A value is rounded 8 times on its way through the two sides of each transform at most (see
    the transforms' own tests), its weight once, the sum over c channels c times; the absolute
    values of the matrices bound what the roundings can be amplified to. So with U = |G g G^T|:
    |error| <= gamma_(8 + 8 + 1 + c) |A^T| (sum_c U * |B^T| |d| |B|) |A|.
    """
    (rows, columns), (out_h, out_w) = winograd.tiles(site, m), site.out_size
    top, left = site.pads[:2]
    whole = np.zeros((site.batch, rows * m + 2, columns * m + 2, site.channels))
    seen = np.abs(x[:, : rows * m + 2 - top, : columns * m + 2 - left])
    whole[:, top : top + seen.shape[1], left : left + seen.shape[2]] = seen
    d = np.lib.stride_tricks.sliding_window_view(whole, (m + 2, m + 2), (1, 2))[:, ::m, ::m]
    b, a = np.abs(INPUT_TRANSFORM[m]), np.abs(OUTPUT_TRANSFORM[m])
    g = WEIGHT_TRANSFORM[m]
    weight = np.abs(np.einsum("ai,oijc,bj->aboc", g, w.astype(np.float64), g))
    moved = np.einsum("ai,nhwcij,bj->nhwcab", b, d, b, optimize=True)
    sums = np.einsum("nhwcab,aboc->nhwoab", moved, weight, optimize=True)
    tiles = np.einsum("ia,nhwoab,jb->nhiwjo", a, sums, a, optimize=True)
    whole_out = tiles.reshape(site.batch, rows * m, columns * m, -1)[:, :out_h, :out_w]
    return kit.gamma(17 + site.channels) * whole_out


def check(kit: SimpleNamespace, site: ConvSite, how: winograd.WinogradConfig) -> None:
    rng = np.random.default_rng(site.macs)
    x = rng.standard_normal(site.input_shape).astype(np.float32)
    w = rng.standard_normal((site.out_channels, 3, 3, site.channels)).astype(np.float32)
    extra = kit.operands(site.epilogue, site.output_shape, rng)
    exact = kit.convolution(x.astype(np.float64), w.astype(np.float64), site)
    got = kit.run(winograd.winograd(site, how, "f32_winograd"), x, winograd.pack(w, how), *extra)
    sums = kit.Bounded(exact, bound(kit, site, how.m, x, w))
    kit.after(site.epilogue, sums, extra).check(got)


@settings(derandomize=True, max_examples=6, deadline=None)
@given(site=sites(), m=st.sampled_from([2, 4]), parallel=st.sampled_from(["", "blocks", "stages"]))
@example(site=case(1, 1, 3, 5), m=4, parallel="")  # one tile, nearly all of it outside
@example(site=case(8, 8, 8, 16), m=4, parallel="stages")  # whole tiles only
@example(site=case(7, 9, 17, 9, batch=2, pads=(0, 1, 2, 0)), m=2, parallel="blocks")
def test_any_convolution_is_within_the_bound_of_its_transforms(
    kit: SimpleNamespace, site: ConvSite, m: int, parallel: str
) -> None:
    check(kit, site, replace(winograd.config(site, m, kit.HERE), parallel=parallel))


@pytest.mark.parametrize("parallel", ["blocks", "stages"])
def test_blocks_that_overlap_do_not_change_the_result(kit: SimpleNamespace, parallel: str) -> None:
    site = case(9, 10, 8, 16, epilogue=BIAS_RESIDUAL_RELU)  # 25 tiles
    how = replace(
        winograd.config(site, 2, kit.HERE),
        block=7,
        tile=choose_tile(7, 16, kit.HERE),
        parallel=parallel,
        prefetch=True,
    )
    check(kit, site, how)


@pytest.mark.parametrize("m", [2, 4])
def test_the_error_is_far_below_a_ten_thousandth_of_the_peak(kit: SimpleNamespace, m: int) -> None:
    # Weights and activations as networks have them: normal weights, activations behind a ReLU.
    # Lowering takes a form up to 1e-4 of the peak; a fifth of that leaves room for worse weights.
    site = case(14, 14, 64, 24)
    rng = np.random.default_rng(0)
    x = np.maximum(rng.standard_normal(site.input_shape), 0).astype(np.float32)
    w = rng.standard_normal((24, 3, 3, 64)).astype(np.float32)
    how = winograd.config(site, m, kit.HERE)
    got = kit.run(winograd.winograd(site, how, "f32_winograd"), x, winograd.pack(w, how))
    exact = kit.convolution(x.astype(np.float64), w.astype(np.float64), site)
    assert np.abs(got - exact).max() <= 2e-5 * np.abs(exact).max()


@pytest.mark.parametrize(
    "change",
    [
        {"strides": (2, 2)},
        {"dilation": (2, 2)},
        {"groups": 2},
        {"kernel": (5, 5)},
        {"planar": True},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_convolutions_are_refused(kit: SimpleNamespace, change: dict[str, object]) -> None:
    site = case(14, 14, 8, 8)
    assert winograd.applies(site)
    other = replace(site, **change)
    assert not winograd.applies(other)
    with pytest.raises(AssertionError, match="is no dense 3x3 convolution of stride 1"):
        winograd.winograd(other, winograd.config(site, 2, kit.AVX2), "f32_winograd")


def test_it_is_predicted_faster_where_it_saves_products(kit: SimpleNamespace) -> None:
    # 56x56x64: F(4, 3) takes a quarter of the products, and the transforms some of that back.
    site = case(56, 56, 64, 64)
    direct = conv.cycles(site, conv.config(site, kit.AVX2), kit.AVX2)
    fast = winograd.cycles(site, winograd.config(site, 4, kit.AVX2), kit.AVX2)
    assert direct / 4 < fast < direct / 1.5


@settings(derandomize=True, max_examples=80, deadline=None)
@given(
    size=st.tuples(st.integers(1, 112), st.integers(1, 112)),
    channels=st.tuples(st.integers(1, 600), st.integers(1, 600)),
    batch=st.integers(1, 8),
    m=st.sampled_from([2, 4]),
)
def test_blocks_hold_every_tile_and_threads_have_some_each(
    kit: SimpleNamespace, size: tuple[int, int], channels: tuple[int, int], batch: int, m: int
) -> None:
    site = case(*size, *channels, batch=batch)
    how = winograd.config(site, m, kit.HERE)
    rows, columns = winograd.tiles(site, m)
    assert rows * m >= size[0] > (rows - 1) * m
    count = batch * rows * columns
    assert 1 <= how.tile.rows <= how.block <= count
    assert how.parallel in {"", "blocks", "stages"}
    assert (how.parallel == "blocks") <= (-(-count // how.block) > 1)
