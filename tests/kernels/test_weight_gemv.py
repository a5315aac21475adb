"""Mirror of tvmopt/kernels/weight_gemv.py."""

from __future__ import annotations

from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tvmopt.kernels import weight_gemv
from tvmopt.kernels.epilogue import STORE, Epilogue, Operand, Step
from tvmopt.kernels.weight_code import HalfCode, IntCode, TableCode
from tvmopt.kernels.weight_site import WeightSite

BIAS_RELU = Epilogue((Operand.CHANNEL,), (Step("add", (0, 1)), Step("max", (2, 0.0))))


def check(kit: SimpleNamespace, site: WeightSite) -> None:
    """Compare with float64.

    Each product of x and a code, each sum, the zero point's share and the scale round once, so all
    of it is within gamma of k + 8 of ``sum |x| (|code| + |zero|) scale``: the zero point is a term
    of its own, and its sum of x another k roundings, of which 2 k cover both.
    """
    rng = np.random.default_rng(site.k + 7 * site.n)
    m, k, n, code = site.m, site.k, site.n, site.code
    x = rng.standard_normal((m, k)).astype(np.float32)
    codes = rng.integers(0, 1 << code.bits, (k, n))
    scale = rng.uniform(0.5, 2, (site.groups, n)).astype(np.float32)
    zeros = rng.integers(0, 1 << code.bits, (site.groups, n)).astype(np.uint8)
    extra = kit.operands(site.epilogue, (m, n), rng)
    how = weight_gemv.config(site, kit.HERE)
    own = {"zero": zeros} if code.zero is None else {}
    func = weight_gemv.weight_gemv(site, how, "kernel")
    got = kit.run(func, x, *site.pack(codes, how.tile, scale=scale, **own), *extra)

    zero = zeros if code.zero is None else np.full_like(zeros, code.zero)
    spread, wide = (np.repeat(a.astype(np.float64), code.group, 0) for a in (scale, zero))
    exact = x.astype(np.float64) @ ((codes - wide) * spread)
    bound = kit.gamma(2 * k + 8) * (np.abs(x).astype(np.float64) @ ((codes + wide) * spread))
    kit.after(site.epilogue, kit.Bounded(exact, bound), extra).check(got)


@settings(derandomize=True, max_examples=16, deadline=None)
@given(
    m=st.integers(1, 4),
    bits=st.integers(2, 8),
    group=st.sampled_from([4, 8, 16, 32, 64]),
    groups=st.integers(1, 4),
    n=st.integers(1, 70),
    own_zero=st.booleans(),
    epilogue=st.sampled_from([STORE, BIAS_RELU]),
)
@example(m=1, bits=4, group=32, groups=8, n=64, own_zero=False, epilogue=BIAS_RELU)
@example(m=1, bits=3, group=100, groups=1, n=33, own_zero=True, epilogue=STORE)
@example(m=4, bits=8, group=16, groups=3, n=8, own_zero=False, epilogue=STORE)
def test_any_product_is_within_its_rounding(
    kit: SimpleNamespace,
    m: int,
    bits: int,
    group: int,
    groups: int,
    n: int,
    own_zero: bool,
    epilogue: Epilogue,
) -> None:
    code = IntCode(bits, group, None if own_zero else 1 << (bits - 1))
    check(kit, WeightSite(m=m, k=group * groups, n=n, code=code, epilogue=epilogue))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize(("m", "k", "n"), [(1, 33, 70), (3, 8, 9)])
def test_halves(kit: SimpleNamespace, dtype: type, m: int, k: int, n: int) -> None:
    rng = np.random.default_rng(0)
    site = WeightSite(m=m, k=k, n=n, code=HalfCode(np.dtype(dtype).name))
    how = weight_gemv.config(site, kit.HERE)
    x, weight = rng.standard_normal((m, k)).astype(np.float32), rng.standard_normal((k, n))
    weight = weight.astype(dtype)
    got = kit.run(weight_gemv.weight_gemv(site, how, "k"), x, *site.pack(weight, how.tile))
    kit.Bounded.dot(np.matmul, x, weight.astype(np.float32), k).check(got)


def test_tables(kit: SimpleNamespace) -> None:
    rng = np.random.default_rng(0)
    site = WeightSite(m=2, k=70, n=33, code=TableCode(4, 8))
    how = weight_gemv.config(site, kit.HERE)
    x, table = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 70), (13,)))
    codes = rng.integers(0, 13, (70, 33))
    func = weight_gemv.weight_gemv(site, how, "k")
    got = kit.run(func, x, *site.pack(codes, how.tile, table=table))
    kit.Bounded.dot(np.matmul, x, table[codes], 70).check(got)


@pytest.mark.parametrize("machine", ["AVX2", "AVX512", "NEON"])
def test_codes_are_decoded_in_registers(kit: SimpleNamespace, machine: str) -> None:
    target = getattr(kit, machine)
    site = WeightSite(m=1, k=256, n=256, code=IntCode(4, 32, 8))
    func = weight_gemv.weight_gemv(site, weight_gemv.config(site, target), "kernel")
    (loop,) = kit.hot_loops(func, target)
    # 32 codes of a block; what the groups' totals come and go by is no part of the block.
    assert loop.multiply_adds(target) >= 32
    assert len(loop.spills) <= len(loop.code) / 16


def test_few_rows_only() -> None:
    sites = [WeightSite(m=m, k=32, n=32, code=IntCode(4, 32, 8)) for m in (1, 4, 5)]
    assert [weight_gemv.applies(site) for site in sites] == [True, True, False]
