"""Mirror of tvmopt/kernels/blocks.py."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import tirx
from tvm.sym import Analyzer

from tvmopt.kernels.blocks import THREAD_BYTES, THREAD_MACS, RowBlocks, worth_threads


def number(expr: object) -> int:
    return expr if isinstance(expr, int) else int(Analyzer().simplify(expr))


@settings(derandomize=True, max_examples=60, deadline=None)
@given(data=st.data(), m=st.integers(1, 60))
def test_tiles_cover_every_row_and_stay_inside(data: st.DataObject, m: int) -> None:
    rows = data.draw(st.integers(1, m))
    blocks = RowBlocks(m, rows, data.draw(st.integers(1, -(-m // rows))))
    covered, tiles = set[int](), 0
    for block in range(blocks.count):
        for tile in range(number(blocks.tiles(tirx.const(block, "int32")))):
            first = number(blocks.first_row(tirx.const(block, "int32"), tirx.const(tile, "int32")))
            assert 0 <= first <= m - rows
            covered |= set(range(first, first + rows))
            tiles += 1
    assert covered == set(range(m))
    assert tiles == blocks.total  # no tile is computed twice


@settings(derandomize=True, max_examples=100, deadline=None)
@given(
    m=st.integers(8, 100_000),
    rows=st.integers(1, 8),
    row_bytes=st.integers(4, 1 << 18),
    weight_bytes=st.integers(4, 1 << 24),
)
def test_a_block_stays_in_level_2_or_the_weights_pass_once(
    kit: SimpleNamespace, m: int, rows: int, row_bytes: int, weight_bytes: int
) -> None:
    blocks = RowBlocks.choose(m, rows, row_bytes, weight_bytes, kit.AVX2)
    assert 1 <= blocks.per_block <= blocks.total
    held = blocks.per_block * rows * row_bytes
    small = held <= kit.AVX2.l2_bytes // 2 or blocks.per_block == 1
    assert small or (blocks.count == 1 and weight_bytes > kit.AVX2.l2_bytes // 2)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(m=st.integers(8, 10_000), k=st.integers(1, 2048), n=st.integers(8, 2048))
def test_weights_pass_once_where_the_whole_input_stays_in_level_2(
    kit: SimpleNamespace, m: int, k: int, n: int
) -> None:
    target, weights, inputs = kit.AVX2, k * n * 4, m * k * 4
    blocks = RowBlocks.choose(m, 4, (k + n) * 4, weights, target, input_bytes=inputs)
    stays = inputs <= target.l2_bytes // 2 and weights > target.l1d_bytes
    assert (
        blocks.count == 1
        if stays
        else blocks == RowBlocks.choose(m, 4, (k + n) * 4, weights, target)
    )


def test_the_next_panel_is_fetched_where_the_first_pass_counts(kit: SimpleNamespace) -> None:
    target = kit.AVX2
    few, many = RowBlocks(240, 6, 10), RowBlocks(240, 6, 1)
    assert (few.count, many.count) == (4, 40)
    assert few.worth_prefetch(target.l1d_bytes + 4, target)
    assert not few.worth_prefetch(target.l1d_bytes, target)
    assert not many.worth_prefetch(2 * target.l2_bytes, target)
    assert many.worth_prefetch(2 * target.l2_bytes + 4, target)


def test_small_kernels_stay_on_one_thread() -> None:
    assert not worth_threads(THREAD_MACS - 1)
    assert worth_threads(THREAD_MACS)
    assert not worth_threads(THREAD_MACS - 1, THREAD_BYTES - 1)
    assert worth_threads(1, THREAD_BYTES)  # a product with one row waits for its weights


def test_a_tile_taller_than_the_product_is_refused() -> None:
    with pytest.raises(AssertionError, match="a tile of 6 rows cannot cover 5 rows"):
        RowBlocks(5, 6, 1)


def test_blocks_are_of_one_size_where_threads_share_them(kit: SimpleNamespace) -> None:
    # 33 tiles of 6 rows, of which 21 fit a quarter of 512 KiB: 17 and 16, not 21 and 12.
    target = dataclasses.replace(kit.AVX2, l2_bytes=512 * 1024)
    blocks = RowBlocks.choose(196, 6, 1024, 256 * 1024, target)
    assert (blocks.total, blocks.count, blocks.per_block) == (33, 2, 17)
