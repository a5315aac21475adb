"""Mirror of tvmopt/kernels/winograd_line.py."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tvmopt.kernels import winograd_line
from tvmopt.kernels.conv_site import ConvSite
from tvmopt.kernels.epilogue import Epilogue, Operand, Step
from tvmopt.kernels.tile import choose_tile
from tvmopt.kernels.toom_cook import transforms
from tvmopt.kernels.winograd_line import EDGES, LineConfig

BIAS_RESIDUAL_RELU = Epilogue(
    (Operand.CHANNEL, Operand.TENSOR),
    (Step("add", (0, 1)), Step("add", (3, 2)), Step("max", (4, 0.0))),
)


def case(kernel: tuple[int, int], length: int, across: int = 1, **other: object) -> ConvSite:
    tall = kernel[1] == 1
    size = {"height": length, "width": across} if tall else {"height": across, "width": length}
    plain = {"batch": 1, "channels": 8, "out_channels": 16}
    return ConvSite(kernel=kernel, **size, **{**plain, **other})


@st.composite
def sites(draw: st.DrawFn) -> ConvSite:
    taps, tall = draw(st.integers(2, 15)), draw(st.booleans())
    before, after = draw(st.integers(0, taps)), draw(st.integers(0, taps))
    site = case(
        (taps, 1) if tall else (1, taps),
        draw(st.integers(1, 30)),
        draw(st.integers(1, 3)),
        batch=draw(st.integers(1, 2)),
        channels=draw(st.integers(1, 19)),
        out_channels=draw(st.integers(1, 21)),
        pads=(before, 0, after, 0) if tall else (0, before, 0, after),
        epilogue=draw(st.sampled_from([Epilogue(), BIAS_RESIDUAL_RELU])),
    )
    assume(min(site.out_size) >= 1)
    return site


def bound(
    kit: SimpleNamespace, site: ConvSite, how: LineConfig, x: np.ndarray, w: np.ndarray
) -> np.ndarray:
    """Return the largest error of F(m, taps), (n, out_h, out_w, o).

    A transform of n places rounds a value 2 n times at most, each weight is rounded once, a sum
    over k channels and segments k times; the absolute values of the matrices bound what that is
    amplified to: |error| <= gamma_(4 n + 1 + k) |A^T| (sum |G g| * |B^T| |d|).
    """
    axis = 1 if site.kernel[1] == 1 else 2
    before, length = site.pads[axis - 1], site.out_size[axis - 1]
    tiles, matrices = -(-length // how.m), transforms(how.m, how.taps)
    lines = np.abs(np.moveaxis(x, axis, 2).astype(np.float64))  # (n, across, length, c)
    need = (tiles + how.segments - 2) * how.m + how.places
    whole = np.zeros((*lines.shape[:2], need, site.channels))
    seen = lines[:, :, : need - before]
    whole[:, :, before : before + seen.shape[2]] = seen
    d = np.lib.stride_tricks.sliding_window_view(whole, how.places, 2)[:, :, :: how.m]
    moved = np.einsum("pn,xytcn->xyptc", np.abs(matrices.input), d)
    weight = np.abs(winograd_line.transform_weight(w, how.m, how.taps).astype(np.float64))
    weight = weight.reshape(how.places, how.segments, site.channels, -1)
    sums = sum(
        np.einsum("xyptc,pco->xypto", moved[:, :, :, s : s + tiles], weight[:, s])
        for s in range(how.segments)
    )
    out = np.einsum("mp,xypto->xytmo", np.abs(matrices.output), sums)
    out = out.reshape(*out.shape[:2], tiles * how.m, -1)[:, :, :length]
    roundings = 4 * how.places + 1 + how.segments * site.channels
    # transform_weight has rounded the weights already: another unit for what that may hide.
    return kit.gamma(roundings + 1) * np.moveaxis(out, 2, axis)


def check(kit: SimpleNamespace, site: ConvSite, how: LineConfig) -> None:
    rng = np.random.default_rng(site.macs)
    x = rng.standard_normal(site.input_shape).astype(np.float32)
    w = rng.standard_normal((site.out_channels, *site.kernel, site.channels)).astype(np.float32)
    extra = kit.operands(site.epilogue, site.output_shape, rng)
    exact = kit.convolution(x.astype(np.float64), w.astype(np.float64), site)
    func = winograd_line.winograd_line(site, how, "f32_winograd_line")
    got = kit.run(func, x, winograd_line.pack(w, how), *extra)
    kit.after(site.epilogue, kit.Bounded(exact, bound(kit, site, how, x, w)), extra).check(got)


@settings(derandomize=True, max_examples=10, deadline=None)
@given(site=sites(), m=st.sampled_from(EDGES), parallel=st.sampled_from(["", "blocks", "stages"]))
@example(site=case((1, 3), 1, pads=(0, 1, 0, 1)), m=6, parallel="")  # mostly outside
@example(site=case((5, 1), 28), m=6, parallel="stages")  # whole tiles only
@example(site=case((1, 15), 40, 3, batch=2), m=4, parallel="blocks")  # several segments, lines
def test_any_convolution_is_within_the_bound_of_its_transforms(
    kit: SimpleNamespace, site: ConvSite, m: int, parallel: str
) -> None:
    check(kit, site, replace(winograd_line.config(site, m, kit.HERE), parallel=parallel))


@pytest.mark.parametrize("parallel", ["blocks", "stages"])
def test_blocks_and_chunks_do_not_change_the_result(kit: SimpleNamespace, parallel: str) -> None:
    site = case((16, 1), 40, 2, pads=(7, 0, 8, 0), epilogue=BIAS_RESIDUAL_RELU)
    how = winograd_line.config(site, 4, kit.HERE)
    assert (how.segments, how.chunk) == (4, 4)
    for chunk in (1, 2):
        cut = replace(
            how,
            chunk=chunk,
            block=7,
            tile=choose_tile(7, site.out_channels, kit.HERE),
            parallel=parallel,
            prefetch=True,
        )
        check(kit, site, cut)


@pytest.mark.parametrize("m", EDGES)
@pytest.mark.parametrize("taps", [5, 24])
def test_the_error_is_far_below_a_ten_thousandth_of_the_peak(
    kit: SimpleNamespace, m: int, taps: int
) -> None:
    # Weights and activations as networks have them: normal weights, activations behind a ReLU.
    # Lowering takes a form up to 1e-4 of the peak; a fifth of that leaves room for worse weights.
    site = case((taps, 1), 60, channels=64, out_channels=24)
    rng = np.random.default_rng(0)
    x = np.maximum(rng.standard_normal(site.input_shape), 0).astype(np.float32)
    w = rng.standard_normal((24, taps, 1, 64)).astype(np.float32)
    how = winograd_line.config(site, m, kit.HERE)
    func = winograd_line.winograd_line(site, how, "f32_winograd_line")
    got = kit.run(func, x, winograd_line.pack(w, how))
    exact = kit.convolution(x.astype(np.float64), w.astype(np.float64), site)
    assert np.abs(got - exact).max() <= 2e-5 * np.abs(exact).max()


def test_a_long_kernel_is_cut_into_segments_as_long_as_the_tile(kit: SimpleNamespace) -> None:
    for m in EDGES:
        how = winograd_line.config(case((64, 1), 128, channels=1024), m, kit.AVX2)
        assert (how.taps, how.segments) == (m, -(-64 // m))
        assert how.segments % how.chunk == 0
        panel = how.chunk * 1024 * how.tile.width * 4
        assert panel <= kit.AVX2.l2_bytes // 4 or how.chunk == 1


def test_fewer_multiplications_are_predicted_faster(kit: SimpleNamespace) -> None:
    site = case((5, 1), 512, channels=256, out_channels=512)
    costs = [
        winograd_line.cycles(site, winograd_line.config(site, m, kit.HERE), kit.HERE) for m in EDGES
    ]
    assert costs == sorted(costs, reverse=True)


@pytest.mark.parametrize(
    "change",
    [
        {"strides": (2, 1)},
        {"dilation": (2, 1)},
        {"groups": 2},
        {"kernel": (3, 3)},
        {"kernel": (1, 1)},
        {"pads": (0, 1, 0, 0)},
        {"planar": True},
    ],
    ids=str,
)
def test_other_convolutions_are_refused(kit: SimpleNamespace, change: dict[str, object]) -> None:
    site = case((3, 1), 14, 14)
    assert winograd_line.applies(site)
    other = replace(site, **change)
    assert not winograd_line.applies(other)
    how = winograd_line.config(site, 2, kit.AVX2)
    with pytest.raises(AssertionError, match="is no dense convolution of stride 1 along one axis"):
        winograd_line.winograd_line(other, how, "f32_winograd_line")
