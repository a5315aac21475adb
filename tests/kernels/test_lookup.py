"""Mirror of tvmopt/kernels/lookup.py."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from tvmopt.kernels.blocks import THREAD_MACS
from tvmopt.kernels.lookup import CHUNK, LookupConfig, LookupSite, config, cycles, lookup, pack


def random_table(seed: int, dtype: str) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, 256).astype(np.uint8).view(dtype)


@pytest.mark.parametrize("size", [1, 31, 32, 33, 95, CHUNK + 1, 3 * CHUNK + 17])
@pytest.mark.parametrize(("read", "stored"), [("uint8", "int8"), ("int8", "uint8")])
def test_every_byte_is_replaced(kit: SimpleNamespace, size: int, read: str, stored: str) -> None:
    site = LookupSite(size=size, read=read, stored=stored)
    how = config(site, kit.HERE)
    table = random_table(size, stored)
    x = np.arange(size).astype(np.uint8)  # every byte, in every place of a register
    np.random.default_rng(size).shuffle(x)
    got = kit.run(lookup(site, how, "x8_lut"), x.view(read), pack(table, how))
    assert np.array_equal(got, table[x])


def test_tables_that_shuffles_make_are_the_tables_that_loads_make(kit: SimpleNamespace) -> None:
    site = LookupSite(size=256, read="uint8", stored="uint8")
    x = np.arange(256).astype(np.uint8)
    choices = {config(site, kit.HERE).shuffled, False}
    for seed in range(5):
        table = random_table(seed, "uint8")
        for shuffled in choices:
            how = LookupConfig(shuffled=shuffled, parallel=False)
            assert np.array_equal(kit.run(lookup(site, how, "lut"), x, pack(table, how)), table)


def test_avx2_shuffles_and_the_others_load(kit: SimpleNamespace) -> None:
    site = LookupSite(size=1000, read="uint8", stored="uint8")
    assert config(site, kit.AVX2).shuffled
    assert config(site, kit.AVX512).shuffled
    assert not config(site, kit.NEON).shuffled
    loops = kit.loops(lookup(site, config(site, kit.AVX2), "lut"), kit.AVX2)
    (shuffling,) = [loop for loop in loops if loop.count("vpshufb")]
    assert shuffling.count("vpshufb") == 16
    assert len(shuffling.code) < 70  # three instructions a part, the parts' loads, the loop
    assert kit.build(lookup(site, config(site, kit.NEON), "lut"), kit.NEON)


def test_large_tensors_are_shared_among_threads(kit: SimpleNamespace) -> None:
    def script(size: int) -> str:
        site = LookupSite(size=size, read="uint8", stored="uint8")
        return lookup(site, config(site, kit.AVX2), "lut").script()

    assert "T.parallel" not in script(THREAD_MACS // 8)
    assert "T.parallel" in script(THREAD_MACS)


def test_shuffles_are_predicted_to_take_half_the_time_of_loads(kit: SimpleNamespace) -> None:
    site = LookupSite(size=100_000, read="uint8", stored="uint8")
    shuffled, loaded = (
        cycles(site, LookupConfig(shuffled=shuffled, parallel=False), kit.AVX2)
        for shuffled in (True, False)
    )
    assert 1.8 * shuffled < loaded
