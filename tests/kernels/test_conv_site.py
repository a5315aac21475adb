"""Mirror of tvmopt/kernels/conv_site.py: sizes and counts, against what NumPy's windows say."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from types import SimpleNamespace

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tvmopt.kernels.conv_site import ConvSite

pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def sites(draw: st.DrawFn) -> ConvSite:
    groups = draw(st.integers(1, 3))
    site = ConvSite(
        batch=draw(st.integers(1, 3)),
        height=draw(st.integers(1, 12)),
        width=draw(st.integers(1, 12)),
        channels=groups * draw(st.integers(1, 4)),
        out_channels=groups * draw(st.integers(1, 4)),
        kernel=draw(st.tuples(st.integers(1, 4), st.integers(1, 4))),
        strides=draw(pairs),
        pads=draw(st.tuples(*[st.integers(0, 3)] * 4)),
        dilation=draw(pairs),
        groups=groups,
    )
    assume(min(site.out_size) >= 1)
    return site


def test_the_output_size_is_onnx_own() -> None:
    # floor((size + pads - dilation * (kernel - 1) - 1) / stride) + 1, ONNX's Conv.
    site = ConvSite(
        batch=1,
        height=10,
        width=7,
        channels=1,
        out_channels=1,
        kernel=(3, 3),
        strides=(2, 3),
        pads=(1, 0, 2, 1),
        dilation=(2, 1),
    )
    assert site.out_size == ((10 + 3 - 4 - 1) // 2 + 1, (7 + 1 - 2 - 1) // 3 + 1)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(site=sites())
def test_sizes_and_counts_are_those_of_the_windows(kit: SimpleNamespace, site: ConvSite) -> None:
    x = np.zeros(site.input_shape, np.float32)
    seen = kit.windows(x, site)  # (n, out_h, out_w, c, kh, kw)
    assert seen.shape == (site.batch, *site.out_size, site.channels, *site.kernel)
    assert site.rows == prod(seen.shape[:3])
    assert site.taps * site.groups == prod(seen.shape[3:])
    assert site.output_shape == (*seen.shape[:3], site.out_channels)
    # Each output channel reads the taps of its own group.
    assert site.macs == seen.size // site.groups * site.out_channels
    top, left, bottom, right = site.pads
    assert site.padded == (site.height + top + bottom, site.width + left + right)


@settings(derandomize=True, max_examples=20, deadline=None)
@given(site=sites())
def test_a_planar_input_is_the_same_image_in_another_order(site: ConvSite) -> None:
    n, h, w, c = site.input_shape
    other = replace(site, planar=True)
    assert other.input_shape == (n, c, h, w)
    assert (other.output_shape, other.macs) == (site.output_shape, site.macs)
