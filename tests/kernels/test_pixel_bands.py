"""Mirror of tvmopt/kernels/pixel_bands.py."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tvmopt.kernels.conv_site import ConvSite
from tvmopt.kernels.pixel_bands import PixelBands


def _site(kernel: int, stride: int, pad: int, dilation: int = 1) -> ConvSite:
    return ConvSite(
        batch=2,
        height=11,
        width=9,
        channels=8,
        out_channels=8,
        kernel=(kernel, kernel),
        strides=(stride, stride),
        pads=(pad, pad, pad, pad),
        dilation=(dilation, dilation),
    )


def _planes(bands: PixelBands, x: np.ndarray, line: int) -> np.ndarray:
    """Return the planes of the band of image 0 from output line ``line``, by the definition."""
    conv = bands.conv
    sh, sw = conv.strides
    planes = np.full(bands.size, np.nan)
    for number, (a, b) in enumerate(bands.phases):
        for c in range(bands.words):
            for r in range(bands.rows + bands.halo[0]):
                for q in range(bands.pitch):
                    h, w = (line + r) * sh + a - conv.pads[0], q * sw + b - conv.pads[1]
                    inside = 0 <= h < conv.height and 0 <= w < conv.width
                    place = (number * bands.words + c) * bands.span + r * bands.pitch + q
                    planes[place] = x[h, w, c] if inside else 0.0
            end = (number * bands.words + c) * bands.span
            end += (bands.rows + bands.halo[0]) * bands.pitch
            planes[end : end + bands.shared] = 0.0
    return planes


@pytest.mark.parametrize(
    "site",
    [
        _site(3, 1, 1),
        _site(3, 2, 1),
        _site(1, 2, 0),
        _site(5, 1, 2),
        _site(3, 1, 2, 2),
        _site(3, 1, 3),
    ],
    ids=["3x3", "3x3/2", "1x1/2", "5x5", "dilated", "far padding"],
)
def test_a_tap_is_one_offset_for_every_pixel(site: ConvSite) -> None:
    bands = PixelBands(conv=site, word=1, rows=2, tile=16)
    x = np.random.default_rng(0).standard_normal((site.height, site.width, site.channels))
    padded = np.pad(x, ((site.pads[0],) * 2, (site.pads[1],) * 2, (0, 0)))
    places = bands.places()
    planes = _planes(bands, x, line=1)
    for i in range(site.kernel[0]):
        for j in range(site.kernel[1]):
            for row in range(bands.rows):
                for pixel in range(bands.line):
                    h = (1 + row) * site.strides[0] + i * site.dilation[0]
                    w = pixel * site.strides[1] + j * site.dilation[1]
                    at = places[i, j] + row * bands.pitch + pixel
                    np.testing.assert_array_equal(planes[at], padded[h, w])


def test_lines_share_the_padding_between_them() -> None:
    assert PixelBands(conv=_site(3, 1, 1), word=1, rows=2, tile=16).pitch == 9 + 1
    assert PixelBands(conv=_site(5, 1, 2), word=1, rows=2, tile=16).pitch == 9 + 2
    assert PixelBands(conv=_site(3, 1, 0), word=1, rows=2, tile=16).pitch == 9
    uneven = replace(_site(3, 1, 1), pads=(1, 0, 1, 2))
    assert PixelBands(conv=uneven, word=1, rows=2, tile=16).pitch == 9 + 2
    # However far the padding reaches, a line has a place for each of its outputs.
    assert PixelBands(conv=_site(3, 1, 3), word=1, rows=2, tile=16).pitch == 9 + 6 - 2
    assert PixelBands(conv=_site(1, 1, 1), word=1, rows=2, tile=16).pitch == 9 + 2
    # A phase has every s-th pixel: its padding is not the other side's.
    assert PixelBands(conv=_site(3, 2, 1), word=1, rows=2, tile=16).shared == 0


def test_tiles_cover_a_band_and_planes_hold_what_they_read() -> None:
    for tile in (16, 24, 64):
        bands = PixelBands(conv=_site(3, 1, 1), word=1, rows=3, tile=tile)
        assert bands.tiles * tile >= bands.positions > (bands.tiles - 1) * tile
        last = int(bands.places().max()) + bands.tiles * tile
        assert last <= bands.size


def test_planes_that_a_tile_reads_in_part_lie_an_odd_number_of_lines_apart() -> None:
    bands = PixelBands(conv=_site(3, 1, 1), word=1, rows=4, tile=16)
    assert bands.span % 16 == 0
    assert bands.span // 16 % 2 == 1


def test_pointwise_convolutions_have_lines_of_one_pixel() -> None:
    site = replace(_site(1, 1, 0), batch=3)
    bands = PixelBands(conv=site, word=4, rows=16, tile=16)
    assert bands.images == 1
    assert bands.lines == 3 * 11 * 9
    assert bands.whole
    assert bands.span == 16
    assert bands.words == 2
