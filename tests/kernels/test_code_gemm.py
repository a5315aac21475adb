"""Mirror of tvmopt/kernels/code_gemm.py."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tvmopt.kernels import code_gemm
from tvmopt.kernels.code_dot import CodeDot, Kind
from tvmopt.kernels.code_gemm import CodeGemmConfig
from tvmopt.kernels.epilogue import STORE, Epilogue, Operand, Step
from tvmopt.kernels.tile import Tile
from tvmopt.kernels.weight_code import IntCode
from tvmopt.kernels.weight_site import WeightSite
from tvmopt.targets import resolve

BIAS_RELU = Epilogue((Operand.CHANNEL,), (Step("add", (0, 1)), Step("max", (2, 0.0))))


def integers(rng: np.random.Generator, site: WeightSite) -> tuple[np.ndarray, np.ndarray]:
    """Return activations and codes, each with every extreme beside every other."""
    top = (1 << site.code.bits) - 1
    x = rng.choice([-127, -126, 0, 1, 127], (site.m, site.k))
    codes = rng.choice([0, 1, top - 1, top], (site.k, site.n))
    x[0], codes[:, 0] = 127, top  # the largest sum there is
    x[-1] = -127
    return x.astype(np.int8), codes


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("kind", ["vpmaddubsw", "plain"])
@pytest.mark.parametrize(("m", "k", "n"), [(1, 64, 32), (5, 100, 48)])
def test_one_group_is_exact(
    kit: SimpleNamespace, bits: int, kind: Kind, m: int, k: int, n: int
) -> None:
    # All sums are below 2^24, and the scale of rows is 1: float32 holds them.
    site = WeightSite(m=m, k=k, n=n, code=IntCode(bits, k, 3))
    tile = Tile(min(m, 4), 16, 8)
    how = CodeGemmConfig(tile=tile, dot=CodeDot(kind, bits, 8), parallel=False)
    if kind != "plain" and kit.HERE.vector_bits != 256:
        pytest.skip("the tile of the test is of 256 bits")
    x, codes = integers(np.random.default_rng(bits), site)
    ones, scale = np.ones((m, 1), np.float32), np.ones((1, n), np.float32)
    got = kit.run(
        code_gemm.code_gemm(site, how, "k"), x, ones, *site.pack(codes, tile, scale=scale)
    )
    assert np.array_equal(got, x.astype(int) @ (codes - 3))


@settings(derandomize=True, max_examples=16, deadline=None)
@given(
    m=st.integers(1, 9),
    bits=st.integers(2, 8),
    group=st.sampled_from([4, 8, 16, 32, 64]),
    groups=st.integers(1, 4),
    n=st.integers(1, 70),
    own_zero=st.booleans(),
    epilogue=st.sampled_from([STORE, BIAS_RELU]),
)
@example(m=1, bits=4, group=32, groups=8, n=64, own_zero=False, epilogue=BIAS_RELU)
@example(m=4, bits=8, group=16, groups=3, n=8, own_zero=True, epilogue=STORE)
def test_groups_are_added_up_within_their_rounding(
    kit: SimpleNamespace,
    m: int,
    bits: int,
    group: int,
    groups: int,
    n: int,
    own_zero: bool,
    epilogue: Epilogue,
) -> None:
    # A group's integers are exact in float32; its scale, the sum and the row's scale round.
    code = IntCode(bits, group, None if own_zero else 1 << (bits - 1))
    site = WeightSite(m=m, k=group * groups, n=n, code=code, epilogue=epilogue)
    rng = np.random.default_rng(group + n)
    x, codes = integers(rng, site)
    rows = rng.uniform(0.5, 2, (m, 1)).astype(np.float32)
    scale = rng.uniform(0.5, 2, (groups, n)).astype(np.float32)
    zeros = rng.integers(0, 1 << bits, (groups, n)).astype(np.uint8)
    extra = kit.operands(epilogue, (m, n), rng)
    how = code_gemm.config(site, kit.HERE)
    own = {"zero": zeros} if own_zero else {}
    func = code_gemm.code_gemm(site, how, "kernel")
    got = kit.run(func, x, rows, *site.pack(codes, how.tile, scale=scale, **own), *extra)

    zero = zeros if own_zero else np.full_like(zeros, 1 << (bits - 1))
    centred = (codes - np.repeat(zero.astype(int), group, 0)).reshape(groups, group, n)
    parts = np.einsum("mgk,gkn->mgn", x.astype(int).reshape(m, groups, group), centred)
    shares = parts * scale.astype(np.float64) * rows[:, :, None]
    exact, bound = shares.sum(1), kit.gamma(groups + 3) * np.abs(shares).sum(1)
    kit.after(epilogue, kit.Bounded(exact, bound), extra).check(got)


@pytest.mark.parametrize(
    ("machine", "wanted"),
    [
        ("x86-64-v2", "pmaddubsw"),
        ("x86-64-v3", "vpmaddubsw"),
        ("x86-64-v4", "vpmaddubsw"),
        ("x86-64-v4,+avx512vnni", "vpdpbusd"),
        ("x86-64-v3,+avxvnni", "vpdpbusd"),
        ("cortex-a76-pi5", "sdot"),
    ],
)
def test_each_machine_has_its_instruction(kit: SimpleNamespace, machine: str, wanted: str) -> None:
    target = resolve(machine)
    site = WeightSite(m=1, k=256, n=256, code=IntCode(4, 32, 8))
    func = code_gemm.code_gemm(site, code_gemm.config(site, target), "kernel")
    assembly = kit.build(func, target).inspect_source("asm")
    assert wanted in assembly
