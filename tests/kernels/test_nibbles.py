"""Mirror of tvmopt/kernels/nibbles.py: the integers come back, and kernels of them are exact."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from tvmopt.kernels import nibbles, qconv
from tvmopt.kernels.conv_site import ConvSite
from tvmopt.kernels.qconv_site import QConvSite, largest_of
from tvmopt.targets import get

RNG = np.random.default_rng(31)
CONV = ConvSite(batch=1, height=6, width=5, channels=12, out_channels=40, kernel=(1, 1))


@pytest.mark.parametrize("count", [2, 12, 32, 96, 64, 640])
def test_bytes_hold_both_halves_of_a_chunk(count: int) -> None:
    codes = RNG.integers(-8, 8, (3, count)).astype(np.int8)
    packed, size = nibbles.pack(codes), nibbles.chunk_bytes(count)
    assert packed.nbytes * 2 == codes.nbytes
    halves = np.stack([packed & 15, packed >> 4], 1).astype(np.int8) - 8
    back = halves.reshape(3, 2, -1, size).swapaxes(1, 2).reshape(3, count)
    assert np.array_equal(back, codes)


@pytest.mark.parametrize(
    "attrs",
    [
        {},
        {"kernel": (3, 3), "pads": (1, 1, 1, 1)},
        {"kernel": (3, 2), "strides": (2, 1), "groups": 4},
        {"out_channels": 5},
        {"channels": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("low", [-7, -8])
def test_packed_weights_give_the_same_sums(
    kit: SimpleNamespace, attrs: dict[str, object], low: int
) -> None:
    conv = replace(CONV, **attrs)
    weight = RNG.integers(low, 8, (conv.out_channels, *conv.kernel, conv.group_channels))
    site = QConvSite(conv=conv, dtype="uint8", zero_point=117, largest=largest_of(weight))
    plain = qconv.config(site, kit.HERE)
    x = RNG.integers(0, 256, conv.input_shape).astype(np.uint8)
    bias = RNG.integers(-500, 500, conv.out_channels)
    sums = []
    for how in (plain, replace(plain, packed=True, prefetch=False)):
        tensors = qconv.pack(weight, site, how), qconv.pack_bias(bias, weight, site, how)
        sums.append(kit.run(qconv.qconv(site, how, "k"), x, *tensors))
        sizes = tensors[0].nbytes
    assert sizes * 2 == qconv.pack(weight, site, plain).nbytes
    assert np.array_equal(*sums)


@pytest.mark.parametrize("target", ["x86-64-v3", "x86-64-v2", "zen4", "cortex-a76-pi5"])
def test_unpacking_takes_whole_registers(kit: SimpleNamespace, target: str) -> None:
    machine = get(target)
    site = QConvSite(conv=CONV, dtype="uint8", zero_point=3, largest=7)
    how = replace(qconv.config(site, machine), packed=True, prefetch=False)
    assembly = kit.build(qconv.qconv(site, how, "k"), machine).inspect_source("asm")
    # GFNI shifts the bits within bytes by a matrix.
    shift = {"cortex-a76-pi5": "ushr", "zen4": "gf2p8affine"}.get(target, "psrlw")
    assert shift in assembly
    assert qconv.cycles(site, how, machine) > qconv.cycles(
        site, replace(how, packed=False), machine
    )
