"""Mirror of tvmopt/kernels/weight_conv.py."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from tvmopt.kernels import conv, weight_conv
from tvmopt.kernels.blocks import RowBlocks
from tvmopt.kernels.conv_site import ConvSite
from tvmopt.kernels.epilogue import Epilogue, Operand, Step
from tvmopt.kernels.weight_code import HalfCode, IntCode
from tvmopt.kernels.weight_conv import WeightConvSite

BIAS_RELU = Epilogue((Operand.CHANNEL,), (Step("add", (0, 1)), Step("max", (2, 0.0))))
SITES = {
    "3x3": ConvSite(
        batch=2,
        height=6,
        width=5,
        channels=8,
        out_channels=20,
        kernel=(3, 3),
        pads=(1, 1, 1, 1),
        strides=(2, 1),
        epilogue=BIAS_RELU,
    ),
    "planar": ConvSite(
        batch=1,
        height=7,
        width=9,
        channels=3,
        out_channels=24,
        kernel=(5, 3),
        pads=(2, 1, 2, 1),
        planar=True,
    ),
}


@pytest.mark.parametrize("blocks", [False, True], ids=["one block", "blocks"])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("name", SITES)
def test_it_is_the_convolution_with_the_widened_weights(
    kit: SimpleNamespace, name: str, dtype: type, blocks: bool
) -> None:
    # Bit for bit: the weights are the same floats, in the same order.
    shapes = SITES[name]
    rng = np.random.default_rng(2)
    weight = rng.standard_normal((shapes.out_channels, *shapes.kernel, shapes.channels))
    weight = weight.astype(dtype)
    site = WeightConvSite(conv=shapes, code=HalfCode(np.dtype(dtype).name))
    how = replace(weight_conv.config(site, kit.HERE), prefetch=False, parallel=blocks)
    if blocks:
        how = replace(how, rows=RowBlocks(shapes.rows, how.tile.rows, 1))
    x = rng.standard_normal(shapes.input_shape).astype(np.float32)
    extra = kit.operands(shapes.epilogue, shapes.output_shape, rng)
    matrix = np.ascontiguousarray(weight.reshape(shapes.out_channels, -1).T)
    func = weight_conv.weight_conv(site, how, "kernel")
    got = kit.run(func, x, *site.product.pack(matrix, how.tile), *extra)

    packed = conv.pack(weight.astype(np.float32), 1, how.tile)
    wanted = kit.run(conv.conv(shapes, how, "kernel"), x, packed, *extra)
    assert np.array_equal(got, wanted)


def test_codes_with_scales(kit: SimpleNamespace) -> None:
    shapes = SITES["3x3"]
    rng = np.random.default_rng(3)
    site = WeightConvSite(conv=shapes, code=IntCode(4, 8, 8))
    how = replace(weight_conv.config(site, kit.HERE), prefetch=False)
    codes = rng.integers(0, 16, (72, 20))
    scale = rng.uniform(0.5, 2, (9, 20)).astype(np.float32)
    x = rng.standard_normal(shapes.input_shape).astype(np.float32)
    extra = kit.operands(shapes.epilogue, shapes.output_shape, rng)
    func = weight_conv.weight_conv(site, how, "kernel")
    got = kit.run(func, x, *site.product.pack(codes, how.tile, scale=scale), *extra)

    matrix = (codes - 8).astype(np.float32) * np.repeat(scale, 8, 0)
    weight = np.ascontiguousarray(matrix.T).reshape(20, 3, 3, 8)
    wanted = kit.run(conv.conv(shapes, how, "k"), x, conv.pack(weight, 1, how.tile), *extra)
    assert np.array_equal(got, wanted)


def test_decoding_costs_little_beside_many_pixels(kit: SimpleNamespace) -> None:
    for size, share in [(28, 0.03), (7, 0.25)]:
        shapes = ConvSite(
            batch=1,
            height=size,
            width=size,
            channels=128,
            out_channels=128,
            kernel=(3, 3),
            pads=(1, 1, 1, 1),
        )
        site = WeightConvSite(conv=shapes, code=HalfCode("float16"))
        how = weight_conv.config(site, kit.AVX2)
        floats = conv.cycles(shapes, how, kit.AVX2)
        assert floats < weight_conv.cycles(site, how, kit.AVX2) < (1 + share) * floats
