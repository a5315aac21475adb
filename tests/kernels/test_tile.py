"""Mirror of tvmopt/kernels/tile.py."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvmopt.kernels.tile import Tile, choose_tile, panel_columns, panels

MACHINES = ["AVX2", "AVX512", "NEON"]
SIZES = st.integers(1, 5000)


@settings(derandomize=True, max_examples=150, deadline=None)
@given(machine=st.sampled_from(MACHINES), rows=SIZES, columns=SIZES)
def test_a_tile_fits_the_registers_and_the_product(
    kit: SimpleNamespace, machine: str, rows: int, columns: int
) -> None:
    target = getattr(kit, machine)
    tile = choose_tile(rows, columns, target)
    # Accumulators, the columns of one step, and the row's element spread over a register.
    assert tile.rows * tile.vectors + tile.vectors + 1 <= target.vector_registers
    assert 1 <= tile.rows <= rows
    assert tile.lanes <= tile.columns <= columns
    assert tile.lanes == min(target.lanes(32), columns)


@settings(derandomize=True, max_examples=150, deadline=None)
@given(machine=st.sampled_from(MACHINES), n=st.integers(1, 600), rows=st.integers(1, 100))
def test_panels_cover_every_column_and_no_other(
    kit: SimpleNamespace, machine: str, n: int, rows: int
) -> None:
    tile = choose_tile(rows, n, getattr(kit, machine))
    packed = panel_columns(n, tile)
    assert packed.shape == (len(panels(n, tile)), tile.width)
    assert set(packed.ravel()) == set(range(n))
    for start, columns in zip(panels(n, tile), packed, strict=True):
        # As stored: register v of the tile holds the columns from its start on.
        for v, first in enumerate(tile.starts):
            register = columns[v * tile.lanes : (v + 1) * tile.lanes]
            assert list(register) == list(range(start + first, start + first + tile.lanes))
        assert set(columns) == set(range(start, start + tile.columns))


@pytest.mark.parametrize("machine", MACHINES)
def test_a_large_product_keeps_the_multipliers_busy(kit: SimpleNamespace, machine: str) -> None:
    target = getattr(kit, machine)
    tile = choose_tile(3136, 256, target)
    # Each load feeds several multiply-adds, and there are enough of them to hide their latency.
    assert tile.rows * tile.vectors >= 4 * target.fma_per_cycle
    assert tile.rows * tile.vectors >= tile.rows + tile.vectors
    assert tile.columns % target.lanes(32) == 0


def test_no_column_is_computed_twice_where_tiles_can_divide_them(kit: SimpleNamespace) -> None:
    for n in (8, 16, 24, 48, 96):
        tile = choose_tile(100, n, kit.AVX2)
        assert n % tile.columns == 0, n


def test_registers_of_a_row_overlap_at_its_end() -> None:
    tile = Tile(rows=2, columns=20, lanes=8)
    assert (tile.starts, tile.vectors, tile.width) == ([0, 8, 12], 3, 24)
    assert list(panel_columns(20, tile)[0][16:]) == list(range(12, 20))


def test_more_work_takes_more_cycles(kit: SimpleNamespace) -> None:
    cycles = [Tile(rows=r, columns=16, lanes=8).cycles(64, kit.AVX2) for r in range(1, 8)]
    assert cycles == sorted(cycles)
    # 6 x 2 multiply-adds, two a cycle, cannot take less than 6 cycles.
    assert Tile(rows=6, columns=16, lanes=8).cycles(64, kit.AVX2) >= 6


def test_a_tile_wider_than_the_matrix_is_refused() -> None:
    with pytest.raises(AssertionError, match="a tile of 16 columns cannot cover 9 columns"):
        panels(9, Tile(rows=1, columns=16, lanes=8))


def test_panel_columns_are_integers_that_index() -> None:
    matrix = np.arange(12).reshape(2, 6)
    packed = matrix[:, panel_columns(6, Tile(rows=1, columns=4, lanes=4))]
    np.testing.assert_array_equal(packed[0], [[0, 1, 2, 3], [2, 3, 4, 5]])


def test_a_panel_that_outgrows_level_1_waits_for_level_2(kit: SimpleNamespace) -> None:
    wide = Tile(rows=2, columns=32, lanes=8)
    fits = kit.AVX2.l1d_bytes // 2 // (4 * wide.width)
    assert wide.cycles(fits, kit.AVX2) < wide.cycles(fits + 1, kit.AVX2)


def test_rows_that_divide_a_line_need_one_address(kit: SimpleNamespace) -> None:
    tile = Tile(rows=4, columns=16, lanes=8)
    assert tile.ends(112) == tile.ends() < tile.ends(110)
    # A short contraction over lines of 112 pixels takes such rows, a long one the larger tile.
    assert 112 % choose_tile(12544, 32, kit.AVX2, k=27, line=112).rows == 0
    assert choose_tile(12544, 16, kit.AVX2, k=4096, line=107).rows == 6


def test_a_short_contraction_takes_few_stores_unless_an_epilogue_spreads_them(
    kit: SimpleNamespace,
) -> None:
    large, small = Tile(rows=6, columns=16, lanes=8), Tile(rows=4, columns=16, lanes=8)
    assert large.ends() / 12 > large.ends(steps=3) / 12 > large.ends(steps=9) / 12
    assert small.ends() == small.ends(steps=9)
    chosen = [choose_tile(12544, 96, kit.AVX2, k=16, steps=steps) for steps in (0, 9)]
    assert [tile.rows * tile.vectors for tile in chosen] == [8, 12]
