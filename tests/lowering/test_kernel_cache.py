"""Mirror of tvmopt/lowering/kernel_cache.py."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

from tvmopt.kernels import gemm
from tvmopt.kernels.epilogue import Epilogue, Operand, Step
from tvmopt.kernels.gemm import GemmSite
from tvmopt.lowering.kernel_cache import KernelCache, LowerOptions


def test_equal_sites_share_a_kernel_and_others_do_not(kit: SimpleNamespace) -> None:
    cache = KernelCache(kit.AVX2, LowerOptions())
    site = GemmSite(m=8, k=4, n=16)
    how = gemm.config(site, kit.AVX2)
    first = cache.get(gemm.gemm, "gemm", site, how, 9.6)
    assert cache.get(gemm.gemm, "gemm", GemmSite(m=8, k=4, n=16), how, 9.6) is first
    assert first.attrs["tvmopt.cycles"] == 10
    relu = replace(site, epilogue=Epilogue((), (Step("max", (0.0, 0)),)))
    assert cache.get(gemm.gemm, "gemm", relu, how, 9.6) is not first
    assert cache.get(gemm.gemm, "gemm", site, replace(how, parallel=True), 9.6) is not first


def test_a_name_says_types_operator_steps_tile_and_machine(kit: SimpleNamespace) -> None:
    cache = KernelCache(kit.AVX2, LowerOptions())
    bias = Epilogue((Operand.CHANNEL,), (Step("add", (0, 1)),))
    site = GemmSite(m=64, k=64, n=64, epilogue=bias)
    how = gemm.config(site, kit.AVX2)
    name = cache.get(gemm.gemm, "gemm", site, how, 9.6).attrs["tvmopt.kernel"]
    assert name == f"f32_gemm_add_{how.tile.rows}x{how.tile.columns}__avx2"
