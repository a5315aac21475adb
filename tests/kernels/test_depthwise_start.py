"""Mirror of tvmopt/kernels/depthwise_start.py."""

from __future__ import annotations

import numpy as np

from tvmopt.kernels.conv_site import ConvSite
from tvmopt.kernels.depthwise_start import pack_start, split_bias


def case(channels: int, edge: int, zero_point: int) -> ConvSite:
    return ConvSite(
        batch=1,
        height=40,
        width=40,
        channels=channels,
        out_channels=channels,
        groups=channels,
        kernel=(edge, edge),
        dtype="uint8",
        zero_point=zero_point,
    )


def test_a_large_bias_is_split_so_that_its_sum_is_rounded_once() -> None:
    site = case(5, 3, 128)
    weight = np.full((5, 3, 3, 1), -128, np.int8)
    most = 9 * 128 * (255 + 128)
    bias = np.array([0, most - 2**24, 2**24 - most + 1, 2**30 + 37, -(2**31) + 1])
    start, added = split_bias(site, weight, bias)
    assert added[:2].tolist() == [0, 0]
    assert (added[2:] != 0).all()
    for total in (-most, -12345, 0, 77, most):
        sums = (start.astype(np.int64) + total).astype(np.float32)
        assert np.array_equal(sums.astype(np.int64), start.astype(np.int64) + total)
        assert np.array_equal(sums + added, (bias + total).astype(np.float32))


def test_sums_beyond_float32_s_integers_are_refused() -> None:
    site = case(1, 23, 0)
    weight = np.full((1, 23, 23, 1), 127, np.int8)
    assert split_bias(site, weight, np.zeros(1, int)) is None


def test_each_line_of_taps_takes_off_what_the_zero_point_adds() -> None:
    site = case(2, 2, 7)
    weight = np.array([[[1, 2], [3, 4]], [[-5, 6], [7, 8]]])[..., None]
    start = np.array([10, 20], np.float32)
    packed = pack_start(site, weight, start)
    assert packed.dtype == np.float32
    assert packed.tolist() == [[10, 20], [-21, -7], [-49, -105]]
    assert pack_start(case(2, 2, 0), weight, start).tolist() == [[10, 20]]
