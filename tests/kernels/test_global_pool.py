"""Mirror of tvmopt/kernels/global_pool.py."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tvmopt.kernels.global_pool import GlobalMeanSite, global_mean


@settings(derandomize=True, max_examples=8, deadline=None)
@given(batch=st.integers(1, 3), pixels=st.integers(1, 60), channels=st.integers(1, 80))
@example(batch=1, pixels=1, channels=1)
@example(batch=2, pixels=49, channels=37)  # the last block overlaps
@example(batch=2, pixels=3000, channels=40)  # enough for threads
def test_the_mean_is_within_its_rounding(
    kit: SimpleNamespace, batch: int, pixels: int, channels: int
) -> None:
    site = GlobalMeanSite(batch=batch, pixels=pixels, channels=channels)
    x = np.random.default_rng(pixels).standard_normal((batch, pixels, channels))
    x = x.astype(np.float32)
    wide = x.astype(np.float64)
    # A sum of so many terms, times a rounded reciprocal: two roundings more.
    error = kit.gamma(pixels + 2) * np.abs(wide).mean(1)
    got = kit.run(global_mean(site, kit.HERE, "f32_global_mean"), x)
    kit.Bounded(wide.mean(1), error).check(got)


def test_only_large_means_share_their_blocks_among_threads(kit: SimpleNamespace) -> None:
    small = GlobalMeanSite(batch=1, pixels=49, channels=64)
    large = GlobalMeanSite(batch=1, pixels=3136, channels=64)
    assert "T.parallel" not in global_mean(small, kit.AVX2, "f32_global_mean").script()
    assert "T.parallel" in global_mean(large, kit.AVX2, "f32_global_mean").script()
