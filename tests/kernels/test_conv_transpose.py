"""Mirror of tvmopt/kernels/conv_transpose.py."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tvmopt.kernels import conv_transpose
from tvmopt.kernels.conv_transpose import ConvTransposeSite
from tvmopt.kernels.epilogue import Epilogue, Operand, Step

BIAS_RELU_RESIDUAL = Epilogue(
    (Operand.CHANNEL, Operand.TENSOR),
    (Step("add", (0, 1)), Step("max", (3, 0.0)), Step("add", (4, 2))),
)


def case(
    height: int, width: int, channels: int, out: int, end: tuple[int, int] = (0, 0), **other: object
) -> ConvTransposeSite:
    """Return a site; ``end`` is cut off the output's bottom and right, below 0 added to it."""
    plain = {"batch": 1, "kernel": (2, 2), "strides": (2, 2), "pads": (0, 0), "groups": 1}
    given_ = {**plain, "dilation": (1, 1), **other}
    size = [
        (extent - 1) * s + (k - 1) * d + 1 - p - e
        for extent, s, k, d, p, e in zip(
            (height, width),
            given_["strides"],
            given_["kernel"],
            given_["dilation"],
            given_["pads"],
            end,
            strict=True,
        )
    ]
    shape = {"height": height, "width": width, "channels": channels, "out_channels": out}
    return ConvTransposeSite(out_size=tuple(size), **shape, **given_)


@st.composite
def sites(draw: st.DrawFn) -> ConvTransposeSite:
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    groups = draw(st.sampled_from([1, 1, 2]))
    strides = draw(pair)
    site = case(
        draw(st.integers(1, 6)),
        draw(st.integers(1, 6)),
        groups * draw(st.integers(1, 6)),
        groups * draw(st.integers(1, 11)),
        # ONNX's output_padding lies below the stride.
        tuple(draw(st.integers(1 - s, 2)) for s in strides),
        batch=draw(st.integers(1, 2)),
        kernel=draw(pair),
        strides=strides,
        pads=draw(st.tuples(st.integers(0, 2), st.integers(0, 2))),
        dilation=draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (2, 3)])),
        groups=groups,
        epilogue=draw(st.sampled_from([Epilogue(), BIAS_RELU_RESIDUAL])),
    )
    assume(min(site.out_size) >= 1)
    return site


def transposed(x: np.ndarray, weight: np.ndarray, site: ConvTransposeSite) -> np.ndarray:
    """Scatter every input pixel's taps, ONNX's definition; weight is (o / groups, kh, kw, c)."""
    n, (out_h, out_w) = site.batch, site.out_size
    per_in, per_out = site.channels // site.groups, site.out_channels // site.groups
    (sh, sw), (dh, dw), (top, left) = site.strides, site.dilation, site.pads
    out = np.zeros(site.output_shape)
    for group in range(site.groups):
        ins = slice(group * per_in, (group + 1) * per_in)
        outs = slice(group * per_out, (group + 1) * per_out)
        for b, h, w in np.ndindex(n, site.height, site.width):
            for kh, kw in np.ndindex(*site.kernel):
                y, z = h * sh + kh * dh - top, w * sw + kw * dw - left
                if 0 <= y < out_h and 0 <= z < out_w:
                    out[b, y, z, outs] += weight[:, kh, kw, ins] @ x[b, h, w, ins]
    return out


@settings(derandomize=True, max_examples=12, deadline=None)
@given(site=sites(), parallel=st.booleans())
@example(site=case(1, 1, 1, 1, kernel=(1, 1), strides=(1, 1)), parallel=False)
@example(site=case(4, 5, 9, 20), parallel=True)  # taps that never meet
@example(site=case(5, 4, 3, 17, kernel=(3, 3), pads=(1, 1), end=(0, 0), batch=2), parallel=True)
@example(site=case(3, 3, 4, 6, kernel=(4, 4), pads=(1, 1), end=(1, 1), groups=2), parallel=False)
@example(site=case(3, 2, 2, 3, kernel=(1, 1), strides=(3, 3), end=(-2, -1)), parallel=False)
def test_any_transposed_convolution_is_within_its_rounding(
    kit: SimpleNamespace, site: ConvTransposeSite, parallel: bool
) -> None:
    rng = np.random.default_rng(site.macs)
    x = rng.standard_normal(site.input_shape).astype(np.float32)
    shape = (site.out_channels // site.groups, *site.kernel, site.channels)
    weight = rng.standard_normal(shape).astype(np.float32)
    extra = kit.operands(site.epilogue, site.output_shape, rng)
    # At most every tap of the kernel lands on a pixel, each a sum over the group's channels.
    terms = site.channels // site.groups * site.kernel[0] * site.kernel[1]
    sums = kit.Bounded.dot(lambda a, b: transposed(a, b, site), x, weight, terms)
    how = replace(conv_transpose.config(site, kit.HERE), parallel=parallel)
    packed = conv_transpose.pack(weight, site.groups, how.tile)
    func = conv_transpose.conv_transpose(site, how, "f32_conv_transpose")
    kit.after(site.epilogue, sums, extra).check(kit.run(func, x, packed, *extra))


def test_no_product_is_spent_on_the_zeros_between_pixels(kit: SimpleNamespace) -> None:
    site = case(8, 8, 16, 24)
    func = conv_transpose.conv_transpose(site, conv_transpose.config(site, kit.AVX2), "t")
    assert func.attrs["tvmopt.macs"] == 8 * 8 * 16 * 2 * 2 * 24
    # One value for each product of a pixel and a tap.
    assert func.attrs["tvmopt.scratch_bytes"] == 8 * 8 * 2 * 2 * 24 * 4
