"""Mirror of tvmopt/kernels/weight_site.py."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from tvmopt.kernels.tile import Tile
from tvmopt.kernels.weight_code import HalfCode, IntCode, TableCode
from tvmopt.kernels.weight_site import WeightSite, narrow_tile

TILE = Tile(1, 16, 8)


def site(code: IntCode | HalfCode | TableCode) -> WeightSite:
    return WeightSite(m=1, k=64, n=40, code=code)


def test_tensors_are_what_the_code_needs() -> None:
    codes = [IntCode(4, 32, 8), IntCode(3, 64, None), HalfCode("float16"), TableCode(4, 8)]
    names = [[name for name, *_ in site(code).parameters(TILE)] for code in codes]
    assert names == [["w", "s"], ["w", "s", "z"], ["w"], ["w", "t"]]


def test_packed_tensors_have_the_declared_shapes() -> None:
    rng = np.random.default_rng(0)
    found = site(IntCode(3, 32, None))
    scale, zero = rng.random((2, 40)).astype(np.float32), np.zeros((2, 40), np.uint8)
    packed = found.pack(rng.integers(0, 8, (64, 40)), TILE, scale=scale, zero=zero)
    declared = [(shape, dtype) for _, shape, dtype in found.parameters(TILE)]
    assert [(each.shape, str(each.dtype)) for each in packed] == declared
    assert found.bytes(TILE) == sum(each.nbytes for each in packed)


def test_a_short_table_is_filled_up() -> None:
    table = np.arange(5, dtype=np.float32)
    _, packed = site(TableCode(3, 8)).pack(np.zeros((64, 40), np.uint8), TILE, table=table)
    assert packed.tolist() == [0, 1, 2, 3, 4, 0, 0, 0]


def test_a_tile_wastes_few_columns(kit: SimpleNamespace) -> None:
    columns = {n: narrow_tile(1, n, 4, 1.25, kit.AVX2).columns for n in (5, 8, 24, 40, 64, 1000)}
    # 40 columns are twice 24, not twice 32; one register alone would wait for its own sums.
    assert columns == {5: 5, 8: 8, 24: 24, 40: 24, 64: 32, 1000: 32}
