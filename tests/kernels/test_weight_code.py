"""Mirror of tvmopt/kernels/weight_code.py."""

from __future__ import annotations

import re
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest

from tvmopt.kernels.tile import Tile
from tvmopt.kernels.weight_code import (
    HalfCode,
    IntCode,
    TableCode,
    WeightCode,
    pack_bits,
    permuted_entries,
    pieces,
)
from tvmopt.kernels.weight_gemm import WeightGemmConfig, weight_gemm
from tvmopt.kernels.weight_site import WeightSite

WIDTHS = pytest.mark.parametrize("bits", range(2, 9))


@WIDTHS
def test_every_bit_of_every_code_has_a_place_of_its_own(bits: int) -> None:
    places = [
        (part.row, part.shift + i)
        for code in pieces(bits)
        for part in code
        for i in range(part.bits)
    ]
    assert len(set(places)) == 8 * bits  # and so the bytes are full
    assert all(row < bits and bit < 8 for row, bit in places)
    for code in pieces(bits):
        covered = [part.place + i for part in code for i in range(part.bits)]
        assert sorted(covered) == list(range(bits))


@WIDTHS
def test_a_weight_takes_its_width_and_no_more(bits: int) -> None:
    codes = np.random.default_rng(0).integers(0, 1 << bits, (2, 64, 24))
    assert pack_bits(codes, bits).nbytes == codes.size * bits // 8


def decoded(
    kit: SimpleNamespace, code: WeightCode, codes: np.ndarray, **more: object
) -> np.ndarray:
    """Return what the kernel makes of codes, (k, n): the product with the identity."""
    k, n = codes.shape
    site = WeightSite(m=k, k=k, n=n, code=code)
    how = WeightGemmConfig(tile=Tile(min(4, k), min(16, n), min(8, n)), parallel=False)
    func = weight_gemm(site, how, "kernel")
    return kit.run(func, np.eye(k, dtype=np.float32), *site.pack(codes, how.tile, **more))


@WIDTHS
@pytest.mark.parametrize("k", [4, 32, 36, 100])
def test_codes_come_back(kit: SimpleNamespace, bits: int, k: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 1 << bits, (k, 24))
    scale = np.ones((1, 24), np.float32)
    got = decoded(kit, IntCode(bits, k, 0), codes, scale=scale)
    assert np.array_equal(got, codes)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("n", [3, 16, 40])
def test_floats_of_16_bits_come_back(kit: SimpleNamespace, dtype: type, n: int) -> None:
    weight = (10 * np.random.default_rng(0).standard_normal((7, n))).astype(dtype)
    weight[0, :3] = [np.dtype(dtype).type(1e-6), -0.0, 6e4]  # a subnormal of float16
    got = decoded(kit, HalfCode(np.dtype(dtype).name), weight)
    assert np.array_equal(got, weight.astype(np.float32))


@pytest.mark.parametrize("entries", [3, 8, 11, 16, 100, 256])
@pytest.mark.parametrize("permute", [True, False], ids=["permuted", "loaded"])
def test_entries_of_a_table_come_back(kit: SimpleNamespace, entries: int, permute: bool) -> None:
    rng = np.random.default_rng(entries)
    table = rng.standard_normal(entries).astype(np.float32)
    bits = max(2, (entries - 1).bit_length())
    codes = rng.integers(0, entries, (40, 24))
    code = TableCode(bits, permuted_entries(kit.HERE) if permute else 0)
    assert np.array_equal(decoded(kit, code, codes, table=table), table[codes])


def test_a_register_is_looked_up_at_once_where_the_cpu_can(kit: SimpleNamespace) -> None:
    assert (permuted_entries(kit.AVX2), permuted_entries(kit.AVX512)) == (8, 16)
    assert permuted_entries(kit.NEON) == 0
    site = WeightSite(m=8, k=32, n=32, code=TableCode(4, 8))
    how = WeightGemmConfig(tile=Tile(4, 16, 8), parallel=False)
    assembly = kit.build(weight_gemm(site, how, "kernel"), kit.AVX2).inspect_source("asm")
    assert re.search(r"vperm(ps|d)\s.*%ymm", assembly)


def test_halves_are_converted_by_the_instruction_for_it(kit: SimpleNamespace) -> None:
    site = WeightSite(m=8, k=32, n=32, code=HalfCode("float16"))
    for target, wanted, lanes in [(kit.AVX2, "vcvtph2ps", 8), (kit.NEON, "fcvtl", 4)]:
        how = WeightGemmConfig(tile=Tile(4, 16, lanes), parallel=False)
        assembly = kit.build(weight_gemm(site, how, "kernel"), target).inspect_source("asm")
        assert wanted in assembly, wanted
