"""Mirror of tvmopt/kernels/gemm.py."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tvmopt.kernels import gemm
from tvmopt.kernels.blocks import RowBlocks
from tvmopt.kernels.epilogue import STORE, Epilogue, Operand, Step
from tvmopt.kernels.gemm import GemmConfig, GemmSite
from tvmopt.kernels.tile import MAX_ROWS, panel_columns

BIAS_RESIDUAL_RELU = Epilogue(
    (Operand.CHANNEL, Operand.TENSOR),
    (Step("add", (0, 1)), Step("add", (3, 2)), Step("max", (4, 0.0))),
)


def check(kit: SimpleNamespace, site: GemmSite, how: GemmConfig) -> None:
    rng = np.random.default_rng(site.m + 7 * site.k + 31 * site.n)
    x = rng.standard_normal((site.m, site.k)).astype(np.float32)
    w = rng.standard_normal((site.k, site.n)).astype(np.float32)
    extra = kit.operands(site.epilogue, (site.m, site.n), rng)
    exact = kit.after(site.epilogue, kit.Bounded.dot(np.matmul, x, w, site.k), extra)
    func = gemm.gemm(site, how, "f32_gemm")
    exact.check(kit.run(func, x, gemm.pack(w, how.tile), *extra))


@settings(derandomize=True, max_examples=12, deadline=None)
@given(
    m=st.integers(1, 40),
    k=st.integers(1, 40),
    n=st.integers(1, 70),
    epilogue=st.sampled_from([STORE, BIAS_RESIDUAL_RELU]),
    parallel=st.booleans(),
)
@example(m=1, k=1, n=1, epilogue=STORE, parallel=False)
@example(m=1, k=300, n=1000, epilogue=BIAS_RESIDUAL_RELU, parallel=True)  # a vector by a matrix
@example(m=49, k=33, n=24, epilogue=STORE, parallel=True)  # one and a half registers a row
@example(m=7, k=5, n=9, epilogue=BIAS_RESIDUAL_RELU, parallel=False)  # registers that overlap
def test_any_product_is_within_its_rounding(
    kit: SimpleNamespace, m: int, k: int, n: int, epilogue: Epilogue, parallel: bool
) -> None:
    site = GemmSite(m=m, k=k, n=n, epilogue=epilogue)
    check(kit, site, replace(gemm.config(site, kit.HERE), parallel=parallel))


@pytest.mark.parametrize("per_block", [1, 2, 5])
def test_blocks_and_prefetch_do_not_change_the_product(
    kit: SimpleNamespace, per_block: int
) -> None:
    site = GemmSite(m=33, k=20, n=40)
    how = gemm.config(site, kit.HERE)
    rows = RowBlocks(site.m, how.tile.rows, per_block)
    check(kit, site, replace(how, rows=rows, prefetch=True, parallel=True))


def test_weights_that_outrun_level_1_are_prefetched(kit: SimpleNamespace) -> None:
    small, large = (gemm.config(GemmSite(m=8, k=512, n=n), kit.AVX2) for n in (16, 1024))
    assert (small.prefetch, large.prefetch) == (False, True)
    func = gemm.gemm(GemmSite(m=8, k=512, n=1024), large, "f32_gemm")
    assert "prefetcht" in kit.build(func, kit.AVX2).inspect_source("asm")


@pytest.mark.parametrize("machine", ["AVX2", "AVX512"])
def test_a_single_row_takes_its_weights_from_memory_as_they_come(
    kit: SimpleNamespace, machine: str
) -> None:
    target, site = getattr(kit, machine), GemmSite(m=1, k=512, n=1024)
    how = gemm.config(site, target)
    assert how.tile.vectors == target.vector_registers // 2
    func = gemm.gemm(site, how, "f32_gemm")
    assert "prefetch" not in kit.build(func, target).inspect_source("asm")
    (loop,) = kit.hot_loops(func, target)
    assert not loop.spills
    # No multiply-add waits for a load of its own.
    assert loop.multiply_adds(target) % how.tile.vectors == 0
    from_memory = loop.count(r"vfmadd\w+ps\s+-?\w*\(")
    assert from_memory == loop.multiply_adds(target)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(machine=st.sampled_from(["AVX2", "AVX512", "NEON"]), n=st.integers(1, 3000))
def test_a_single_rows_panels_cover_its_columns_in_few_registers(
    kit: SimpleNamespace, machine: str, n: int
) -> None:
    target = getattr(kit, machine)
    tile = gemm.row_tile(n, target)
    assert tile.rows == 1
    assert tile.lanes == min(target.lanes(32), n)
    assert tile.vectors <= target.vector_registers // 2
    packed = panel_columns(n, tile)
    assert set(packed.ravel()) == set(range(n))
    # The last panel and the last register overlap their neighbours: by less than a panel.
    assert packed.size < n + tile.width + tile.lanes * len(packed)


def test_panels_hold_every_column_of_the_weight(kit: SimpleNamespace) -> None:
    weight = np.arange(3 * 21, dtype=np.float32).reshape(3, 21)
    tile = gemm.config(GemmSite(m=5, k=3, n=21), kit.AVX2).tile
    packed = gemm.pack(weight, tile)
    assert packed.shape[1:] == (3, tile.width)
    for row in range(3):
        assert set(packed[:, row].ravel()) == set(weight[row])


def test_a_kernel_says_how_much_it_computes(kit: SimpleNamespace) -> None:
    site = GemmSite(m=4, k=5, n=6)
    func = gemm.gemm(site, gemm.config(site, kit.AVX2), "f32_gemm_4x6__avx2")
    assert func.attrs["tvmopt.macs"] == 4 * 5 * 6
    assert func.attrs["tvmopt.kernel"] == "f32_gemm_4x6__avx2"


def test_a_tile_larger_than_the_product_is_refused(kit: SimpleNamespace) -> None:
    large, small = GemmSite(m=64, k=8, n=64), GemmSite(m=64, k=8, n=8)
    with pytest.raises(AssertionError, match="columns"):
        gemm.gemm(small, gemm.config(large, kit.AVX2), "f32_gemm")


def test_a_tile_of_one_vector_does_not_spill(kit: SimpleNamespace) -> None:
    site = GemmSite(m=576, k=64, n=8)
    how = gemm.config(site, kit.AVX2)
    assert how.tile.vectors == 1
    for loop in kit.hot_loops(gemm.gemm(site, how, "f32_gemm"), kit.AVX2):
        assert not loop.spills
    # 32 registers hold as many rows as any tile has.
    assert gemm.config(site, kit.AVX512).tile.rows == MAX_ROWS
