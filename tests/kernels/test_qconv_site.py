"""Mirror of tvmopt/kernels/qconv_site.py: zero points that are known at run time alone."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from tvmopt.kernels import qconv
from tvmopt.kernels.conv_site import ConvSite
from tvmopt.kernels.qconv_chained import best
from tvmopt.kernels.qconv_site import QConvSite, largest_of
from tvmopt.targets import resolve

PRODUCT = ConvSite(batch=1, height=1, width=9, channels=64, out_channels=24, kernel=(1, 1))


@pytest.mark.parametrize("largest", [7, 64, 128, 200])
@pytest.mark.parametrize(("dtype", "zero"), [("uint8", 0), ("uint8", 255), ("int8", -128)])
@pytest.mark.parametrize("zero_dtype", ["own", "int32"])
def test_a_zero_point_of_run_time_is_taken_off_exactly(
    kit: SimpleNamespace, largest: int, dtype: str, zero: int, zero_dtype: str
) -> None:
    rng = np.random.default_rng(largest)
    kind = dtype if zero_dtype == "own" else zero_dtype
    site = QConvSite(conv=PRODUCT, dtype=dtype, zero_point=0, largest=largest, zero_dtype=kind)
    weight = rng.integers(-largest, largest + (largest != 128), (24, 1, 1, 64))
    bias = rng.integers(-1000, 1000, 24)
    how, packed = best(site, weight, bias, kit.HERE)
    sums = qconv.pack_bias(weight.sum((1, 2, 3)), np.zeros_like(weight), site, how)
    limits = np.iinfo(dtype)
    x = rng.integers(limits.min, limits.max + 1, PRODUCT.input_shape).astype(dtype)
    point = np.array([zero], kind)
    got = kit.run(qconv.qconv(site, how, "kernel"), x, *packed, point, sums)
    wanted = (x.astype(int) - zero)[0, 0] @ weight[:, 0, 0].T + bias
    assert np.abs(wanted).max() < 2**24  # float32 holds them
    assert np.array_equal(got[0, 0], wanted)


@pytest.mark.parametrize("machine", ["x86-64-v4,+avx512vnni", "cortex-a76-pi5"])
def test_other_machines_compile_it(kit: SimpleNamespace, machine: str) -> None:
    target = resolve(machine)
    site = QConvSite(conv=PRODUCT, dtype="uint8", zero_point=0, largest=64, zero_dtype="uint8")
    how = qconv.config(site, target)
    assembly = kit.build(qconv.qconv(site, how, "kernel"), target).inspect_source("asm")
    assert how.dot.name in assembly


def test_lines_and_steps() -> None:
    whole = replace(PRODUCT, height=6, width=6, channels=8, kernel=(3, 3))
    dilated = replace(whole, dilation=(1, 2))
    sizes = [
        (site.line, site.lines, site.columns)
        for site in (
            QConvSite(conv=conv, dtype="uint8", zero_point=0, largest=64)
            for conv in (PRODUCT, whole, dilated, replace(whole, groups=2))
        )
    ]
    assert sizes == [(64, 1, 24), (24, 3, 24), (8, 9, 24), (4, 9, 12)]


@pytest.mark.parametrize(
    ("values", "wanted"), [([-128, 5], 128), ([-3, 128], 129), ([-200, 128], 200), ([0, 255], 255)]
)
def test_only_the_negative_of_128_fits_8_bits(values: list[int], wanted: int) -> None:
    assert largest_of(np.array(values)) == wanted


@pytest.mark.parametrize("largest", [7, 64, 200])
@pytest.mark.parametrize(("dtype", "zero"), [("uint8", 0), ("uint8", 255), ("int8", -128)])
def test_padding_holds_the_zero_point_of_run_time(
    kit: SimpleNamespace, largest: int, dtype: str, zero: int
) -> None:
    rng = np.random.default_rng(largest)
    conv = replace(PRODUCT, height=3, width=5, channels=4, kernel=(2, 2), pads=(1, 0, 0, 1))
    site = QConvSite(conv=conv, dtype=dtype, zero_point=0, largest=largest, zero_dtype=dtype)
    weight = rng.integers(-largest, largest + 1, (24, 2, 2, 4))
    how, packed = best(site, weight, np.zeros(24, np.int64), kit.HERE)
    sums = qconv.pack_bias(weight.sum((1, 2, 3)), np.zeros_like(weight), site, how)
    limits = np.iinfo(dtype)
    x = rng.integers(limits.min, limits.max + 1, conv.input_shape).astype(dtype)
    point = np.array([zero], dtype)
    got = kit.run(qconv.qconv(site, how, "kernel"), x, *packed, point, sums)
    real = np.pad(x.astype(int) - zero, ((0, 0), (1, 0), (0, 1), (0, 0)))
    wanted = sum(
        real[:, i : i + 3, j : j + 5] @ weight[:, i, j].T for i in range(2) for j in range(2)
    )
    assert np.array_equal(got, wanted)
