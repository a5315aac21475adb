"""Scales that are powers of two."""

from __future__ import annotations

import numpy as np

from tvmopt.passes.quantize.scaling import power_of_two, spread


def test_scales_are_the_nearest_powers_of_two_within_bounds() -> None:
    got = power_of_two(np.array([1.0, 1.4, 1.5, 3.0, 0.3, 1e-30, 1e30]))
    np.testing.assert_array_equal(got, [1.0, 1.0, 2.0, 4.0, 0.25, 2.0**-16, 2.0**16])


def test_the_spread_is_largest_over_median_of_what_is_not_zero() -> None:
    assert spread(np.array([0.0, 1.0, 2.0, 10.0])) == 5.0
    assert spread(np.zeros(3)) == 1.0
