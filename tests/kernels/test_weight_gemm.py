"""Mirror of tvmopt/kernels/weight_gemm.py."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tvmopt.kernels import gemm, weight_gemm
from tvmopt.kernels.epilogue import STORE, Epilogue, Operand, Step
from tvmopt.kernels.weight_code import IntCode
from tvmopt.kernels.weight_site import WeightSite

BIAS = Epilogue((Operand.CHANNEL,), (Step("add", (0, 1)),))


@settings(derandomize=True, max_examples=12, deadline=None)
@given(
    m=st.integers(1, 20),
    bits=st.integers(2, 8),
    group=st.sampled_from([4, 16, 32, 96]),
    groups=st.integers(1, 3),
    n=st.integers(1, 50),
    own_zero=st.booleans(),
    parallel=st.booleans(),
    epilogue=st.sampled_from([STORE, BIAS]),
)
@example(m=9, bits=4, group=32, groups=4, n=40, own_zero=False, parallel=True, epilogue=BIAS)
def test_it_is_the_product_with_the_dequantized_weight(
    kit: SimpleNamespace,
    m: int,
    bits: int,
    group: int,
    groups: int,
    n: int,
    own_zero: bool,
    parallel: bool,
    epilogue: Epilogue,
) -> None:
    # Bit for bit: the weights are the same floats, in the same order.
    k = group * groups
    rng = np.random.default_rng(k + n)
    code = IntCode(bits, group, None if own_zero else 1 << (bits - 1))
    site = weight_site = WeightSite(m=m, k=k, n=n, code=code, epilogue=epilogue)
    how = replace(weight_gemm.config(site, kit.HERE), parallel=parallel)
    x = rng.standard_normal((m, k)).astype(np.float32)
    codes = rng.integers(0, 1 << bits, (k, n))
    scale = rng.uniform(0.5, 2, (groups, n)).astype(np.float32)
    zeros = rng.integers(0, 1 << bits, (groups, n)).astype(np.uint8)
    own = {"zero": zeros} if own_zero else {}
    extra = kit.operands(epilogue, (m, n), rng)
    func = weight_gemm.weight_gemm(site, how, "kernel")
    got = kit.run(func, x, *weight_site.pack(codes, how.tile, scale=scale, **own), *extra)

    zero = zeros if own_zero else np.full_like(zeros, 1 << (bits - 1))
    wide = (codes - np.repeat(zero.astype(int), group, 0)).astype(np.float32)
    weight = wide * np.repeat(scale, group, 0)
    plain = gemm.GemmSite(m=m, k=k, n=n, epilogue=epilogue)
    dense = replace(gemm.config(plain, kit.HERE), tile=how.tile, prefetch=False, parallel=False)
    dense = replace(dense, rows=gemm.RowBlocks(m, how.tile.rows, -(-m // how.tile.rows)))
    wanted = kit.run(gemm.gemm(plain, dense, "k"), x, gemm.pack(weight, how.tile), *extra)
    assert np.array_equal(got, wanted)


def test_a_panel_a_thread_is_all_that_is_wide(kit: SimpleNamespace) -> None:
    site = WeightSite(m=64, k=512, n=512, code=IntCode(4, 32, 8))
    how = weight_gemm.config(site, kit.AVX2)
    func = weight_gemm.weight_gemm(site, how, "kernel")
    assert func.attrs["tvmopt.scratch_bytes"] == 512 * how.tile.width * 4
