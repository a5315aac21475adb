"""Mirror of tvmopt/kernels/sparse_pixels.py: floats within their bound, integers bit for bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tvmopt.kernels import block_lists
from tvmopt.kernels.conv_site import ConvSite
from tvmopt.kernels.epilogue import Epilogue, Operand, Requantize, Step
from tvmopt.kernels.qconv_site import QConvSite
from tvmopt.kernels.sparse_pixels import sparse_pixels
from tvmopt.kernels.sparse_pixels_site import SparsePixelsConfig, SparsePixelsSite, configs

BIAS_RESIDUAL_RELU = Epilogue(
    operands=(Operand.CHANNEL, Operand.TENSOR),
    steps=(Step("add", (0, 1)), Step("add", (3, 2)), Step("max", (4, 0.0))),
)


def _site(
    c: int,
    o: int,
    size: int,
    kernel: int,
    *,
    stride: int = 1,
    pad: int | None = None,
    batch: int = 1,
    dilation: int = 1,
    epilogue: Epilogue | None = None,
) -> ConvSite:
    pad = kernel // 2 * dilation if pad is None else pad
    return ConvSite(
        batch=batch,
        height=size,
        width=size + 2,
        channels=c,
        out_channels=o,
        kernel=(kernel, kernel),
        strides=(stride, stride),
        pads=(pad, pad, pad, pad),
        dilation=(dilation, dilation),
        epilogue=epilogue or BIAS_RESIDUAL_RELU,
    )


SITES = {
    "1x1": _site(40, 20, 9, 1),
    "1x1 deep": _site(520, 8, 5, 1),
    "1x1/2": _site(8, 16, 9, 1, stride=2),
    "3x3": _site(12, 19, 13, 3),
    "3x3 deep": _site(160, 8, 5, 3),
    "3x3/2, three images": _site(16, 24, 9, 3, stride=2, batch=3),
    "3x3, uneven padding": replace(_site(8, 16, 9, 3), pads=(1, 2, 0, 1)),
    "3x3, far padding": _site(8, 16, 9, 3, pad=3),
    "1x1, padded": _site(12, 16, 9, 1, pad=1),
    "3x3 without padding": _site(8, 8, 9, 3, pad=0),
    "3x3 dilated": _site(8, 12, 11, 3, dilation=2),
    "5x5, narrow": _site(4, 9, 3, 5, batch=2),
    "one row": _site(64, 32, 1, 1, pad=0),
}


def _pruned(
    rng: np.random.Generator, site: ConvSite, outputs: int, word: int, density: float = 0.3
) -> np.ndarray:
    """Return 0 and 1, (o, kh, kw, c): blocks of outputs x word."""
    panels, words = -(-site.out_channels // outputs), site.channels // word
    kept = rng.random((panels, *site.kernel, words)) < density
    whole = np.repeat(np.repeat(kept, outputs, axis=0), word, axis=3)
    return whole[: site.out_channels]


def _listed(
    site: ConvSite, weight: np.ndarray, how: SparsePixelsConfig, qconv: QConvSite | None = None
) -> tuple[SparsePixelsSite, tuple[np.ndarray, ...]]:
    lists = block_lists.pack(weight, how)
    index = str(lists.offsets.dtype)
    what = SparsePixelsSite(conv=site, steps=lists.count, index=index, qconv=qconv)
    return what, (lists.weights, lists.offsets, lists.starts)


def _way(ways: list[SparsePixelsConfig], number: int) -> SparsePixelsConfig:
    """Return one of the ways to cut a convolution, another for each number."""
    return ways[number % len(ways)]


@pytest.mark.parametrize("outputs", [1, 2, 4])
@pytest.mark.parametrize("name", SITES)
def test_floats_are_within_their_bound(kit: Any, name: str, outputs: int) -> None:
    site, rng = SITES[name], np.random.default_rng(outputs)
    x = rng.standard_normal(site.input_shape).astype(np.float32)
    weight = rng.standard_normal((site.out_channels, *site.kernel, site.channels))
    weight = (weight * _pruned(rng, site, outputs, 1)).astype(np.float32)
    extra = kit.operands(site.epilogue, site.output_shape, rng)
    exact = kit.Bounded.dot(lambda a, b: kit.convolution(a, b, site), x, weight, site.taps + 2)
    how = _way(configs(site, outputs, kit.HERE), outputs + len(name))
    what, packed = _listed(site, weight, how)
    got = kit.run(sparse_pixels(what, how, "sparse"), x, *packed, *extra)
    kit.after(site.epilogue, exact, extra).check(got)


@pytest.mark.parametrize(
    ("largest", "dtype", "outputs"),
    [(7, "uint8", 1), (63, "uint8", 2), (63, "int8", 4), (127, "uint8", 4), (127, "int8", 1)],
)
@pytest.mark.parametrize(
    "name", ["1x1", "3x3", "3x3, far padding", "3x3/2, three images", "3x3 deep"]
)
def test_integers_are_exact(kit: Any, name: str, largest: int, dtype: str, outputs: int) -> None:
    rng = np.random.default_rng(largest + outputs)
    site = ConvSite(
        **{
            field: getattr(SITES[name], field)
            for field in ("batch", "height", "width", "channels", "kernel", "strides", "pads")
        },
        out_channels=20,
        epilogue=Epilogue(
            output=Requantize(dtype="uint8", zero_point=3, low=0, high=255),
            steps=(Step("scale", (0, 2.0**-9)),),
        ),
    )
    zero = 5
    qconv = QConvSite(conv=site, dtype=dtype, zero_point=zero, largest=largest)
    limits = np.iinfo(dtype)
    x = rng.integers(limits.min, limits.max + 1, site.input_shape).astype(dtype)
    full = rng.integers(-largest, largest + 1, (20, *site.kernel, site.channels))
    full[0] = largest  # the fullest sums that there are
    weight = full * _pruned(rng, site, outputs, 4)  # wide integers, as lowering has them
    bias = rng.integers(-1000, 1000, 20)
    seen = kit.windows(x.astype(np.int64) - zero, site)
    sums = np.einsum("nhwcij,oijc->nhwo", seen, weight, optimize=True) + bias
    # A power of two scales without rounding, as long as the sum itself is exact in float32.
    scaled = sums.astype(np.float32) * np.float32(2.0**-9)
    wanted = np.clip(np.rint(scaled) + 3, 0, 255).astype(np.uint8)
    ways = configs(site, outputs, kit.HERE, largest)
    assert ways
    how = _way(ways, largest + len(name))
    what, packed = _listed(site, weight, how, qconv)
    start = block_lists.pack_bias(bias, weight, qconv, how)
    got = kit.run(sparse_pixels(what, how, "sparse"), x, *packed, start)
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("target", ["AVX2", "AVX512", "NEON"])
@pytest.mark.parametrize("outputs", [1, 2, 4])
def test_the_loop_multiplies_and_does_not_spill(kit: Any, target: str, outputs: int) -> None:
    site, machine = SITES["1x1"], getattr(kit, target)
    how = configs(site, outputs, machine)[-1]
    what = SparsePixelsSite(conv=site, steps=64, index="uint16")
    loops = kit.hot_loops(sparse_pixels(what, how, "sparse"), machine)
    assert loops
    for loop in loops:
        assert not loop.spills
        assert not loop.calls
        assert loop.multiply_adds(machine) % (outputs * how.vectors) == 0


def test_integers_multiply_by_the_instruction_of_the_target(kit: Any) -> None:
    site = replace(SITES["1x1"], channels=520)  # small planes would lie on the stack
    qconv = QConvSite(conv=site, dtype="uint8", zero_point=0, largest=63)
    for machine, pattern in ((kit.AVX2, "vpmaddubsw"), (kit.NEON, "sdot|usdot")):
        how = configs(site, 2, machine, 63)[-1]
        what = SparsePixelsSite(conv=site, steps=64, index="uint16", qconv=qconv)
        loops = kit.loops(sparse_pixels(what, how, "sparse"), machine)
        hot = [loop for loop in loops if loop.count(pattern)]
        assert hot
        assert not any(loop.spills or loop.calls for loop in hot)
