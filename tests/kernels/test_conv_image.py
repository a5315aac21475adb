"""Mirror of tvmopt/kernels/conv_image.py: what the loops read is what NumPy's windows hold."""

from __future__ import annotations

from math import prod
from types import SimpleNamespace

import numpy as np
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tvm import tirx
from tvm.script.ir_builder import tirx as T  # noqa: N812  (TVM's own name for it)

from tvmopt.kernels.conv_image import Image
from tvmopt.kernels.conv_site import ConvSite
from tvmopt.kernels.vector import bind, parameters, prim_func

pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


def case(**changes: object) -> ConvSite:
    plain = {"batch": 2, "height": 5, "width": 6, "channels": 3, "out_channels": 4}
    return ConvSite(**(plain | {"kernel": (3, 3)} | changes))


@st.composite
def sites(draw: st.DrawFn) -> ConvSite:
    groups = draw(st.integers(1, 2))
    site = case(
        batch=draw(st.integers(1, 2)),
        height=draw(st.integers(1, 7)),
        width=draw(st.integers(1, 23)),  # lines of more than sixteen elements, too
        channels=groups * draw(st.integers(1, 3)),
        out_channels=groups,
        kernel=draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        strides=draw(pairs),
        pads=draw(st.tuples(*[st.integers(0, 2)] * 4)),
        dilation=draw(pairs),
        groups=groups,
        planar=draw(st.booleans()),
    )
    assume(min(site.out_size) >= 1)
    return site


def image_of(site: ConvSite) -> tuple[np.ndarray, np.ndarray]:
    """Return the input as the site says, and the same as NHWC."""
    x = np.arange(1, prod(site.input_shape) + 1, dtype=np.float32).reshape(site.input_shape)
    return x, x.transpose(0, 2, 3, 1) if site.planar else x


def copying(site: ConvSite, parallel: bool) -> tirx.PrimFunc:
    """Return a kernel whose output is the padded copy."""
    image = Image(site)
    shape = (site.batch, image.height, image.width, site.channels)

    def body() -> None:
        x, y = parameters(("x", site.input_shape), ("y", shape))
        padded = image.copy(x, parallel=parallel)
        with T.serial(prod(shape)) as i:
            T.buffer_store(y, padded[i], [i])

    return prim_func("copy", body, {})


@settings(derandomize=True, max_examples=15, deadline=None)
@given(site=sites(), parallel=st.booleans())
@example(site=case(), parallel=False)  # nothing to copy
@example(site=case(planar=True), parallel=True)
@example(site=case(width=17, pads=(1, 0, 2, 3)), parallel=True)
def test_the_copy_is_the_padded_image(kit: SimpleNamespace, site: ConvSite, parallel: bool) -> None:
    x, nhwc = image_of(site)
    top, left, bottom, right = site.pads
    wanted = np.pad(nhwc, ((0, 0), (top, bottom), (left, right), (0, 0)))
    np.testing.assert_array_equal(kit.run(copying(site, parallel), x), wanted)
    copied = any(site.pads) or site.planar
    assert Image(site).scratch_bytes == (wanted.nbytes if copied else 0)


def gathering(site: ConvSite, count: int, group: int) -> tirx.PrimFunc:
    """Return a kernel whose output holds the taps of each pixel in turn, (rows, taps)."""
    image = Image(site)

    def body() -> None:
        x, y = parameters(("x", site.input_shape), ("y", (site.rows, site.taps)))
        padded = image.copy(x, parallel=False)
        with T.serial(-(-site.rows // count)) as tile:
            row = bind(tirx.min(tile * count, site.rows - count))
            channel = tirx.const(group * site.group_channels, "int32")
            pixels = image.pixels(row, count, channel)

            def emit(offset: tirx.Expr, first: tirx.Expr, length: int) -> None:
                with T.serial(length) as step:
                    for i, pixel in enumerate(pixels):
                        place = (row + i) * site.taps + first + step
                        T.buffer_store(y, padded[pixel + offset + step], [place])

            image.runs(emit)

    return prim_func("gather", body, {})


@settings(derandomize=True, max_examples=15, deadline=None)
@given(site=sites(), count=st.integers(1, 6), last=st.booleans())
@example(site=case(kernel=(1, 1)), count=4, last=False)  # pixel follows pixel
@example(site=case(height=6, width=6, pads=(1, 1, 1, 1)), count=3, last=False)  # within a line
@example(site=case(height=6, width=6, pads=(1, 1, 1, 1)), count=4, last=False)  # across lines
@example(site=case(channels=4, groups=2, dilation=(2, 1), pads=(2, 1, 2, 1)), count=2, last=True)
def test_pixels_and_runs_visit_every_tap_in_the_weights_order(
    kit: SimpleNamespace, site: ConvSite, count: int, last: bool
) -> None:
    count, group = min(count, site.rows), (site.groups - 1) * last
    x, nhwc = image_of(site)
    got = kit.run(gathering(site, count, group), x)
    channels = slice(group * site.group_channels, (group + 1) * site.group_channels)
    seen = kit.windows(nhwc, site)[:, :, :, channels]  # (n, out_h, out_w, c, kh, kw)
    wanted = seen.transpose(0, 1, 2, 4, 5, 3).reshape(site.rows, site.taps)
    np.testing.assert_array_equal(got, wanted)


def test_a_line_is_known_where_lines_matter() -> None:
    assert Image(case()).line == 4
    assert Image(case(kernel=(1, 1), strides=(2, 2))).line == 3
    assert Image(case(kernel=(1, 1))).line is None
