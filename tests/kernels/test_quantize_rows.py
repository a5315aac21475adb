"""Mirror of tvmopt/kernels/quantize_rows.py."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tvmopt.kernels.quantize_rows import (
    QuantizeRowsConfig,
    QuantizeRowsSite,
    config,
    quantize_rows,
)

SMALLEST = 2.0**-100


def reference(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    peak = np.maximum(np.abs(x).max(1, keepdims=True), np.float32(SMALLEST))
    scale = peak * np.float32(1 / 127)
    return np.clip(np.rint(x / scale), -127, 127).astype(np.int8), scale


def check(
    kit: SimpleNamespace, x: np.ndarray, how: QuantizeRowsConfig | None = None, offset: int = 0
) -> None:
    m, k = x.shape
    site = QuantizeRowsSite(m=m, k=k, smallest=SMALLEST, offset=offset)
    func = quantize_rows(site, how or config(site, kit.HERE), "kernel")
    codes, scale = kit.run_outputs(func, 2, x)
    wanted, wanted_scale = reference(x)
    assert np.array_equal(scale, wanted_scale)
    assert codes.dtype == site.dtype
    assert np.array_equal(codes, wanted.astype(int) + offset)


@settings(derandomize=True, max_examples=20, deadline=None)
@given(
    m=st.integers(1, 6),
    k=st.integers(1, 100),
    seed=st.integers(0, 9),
    offset=st.sampled_from([0, 128]),
)
@example(m=1, k=4096, seed=0, offset=0)
@example(m=2, k=33, seed=1, offset=128)
def test_any_rows_bit_for_bit(kit: SimpleNamespace, m: int, k: int, seed: int, offset: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((m, k)) * 10.0 ** rng.integers(-8, 8, (m, 1))
    check(kit, x.astype(np.float32), offset=offset)


def test_halves_go_to_the_even_integer(kit: SimpleNamespace) -> None:
    # With the largest 127 the scale is 127 * f32(1/127), which rounds to 1: x are whole steps.
    assert np.float32(127) * np.float32(1 / 127) == 1
    check(kit, np.array([[127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, -126.5, 126.5]], np.float32))


def test_rows_of_zeros_and_of_the_smallest_numbers(kit: SimpleNamespace) -> None:
    tiny = np.float32(2.0**-149)
    check(kit, np.array([[0.0, -0.0], [tiny, -tiny], [3e38, -1e-30], [2.0**-100, 0]], np.float32))


@pytest.mark.parametrize("lanes", [1, 4, 8])
def test_threads_and_registers_do_not_change_it(kit: SimpleNamespace, lanes: int) -> None:
    x = np.random.default_rng(3).standard_normal((7, 45)).astype(np.float32)
    check(kit, x, QuantizeRowsConfig(lanes=lanes, parallel=True))


def test_neon_converts_whole_registers(kit: SimpleNamespace) -> None:
    site = QuantizeRowsSite(m=4, k=256, smallest=SMALLEST)
    func = quantize_rows(site, config(site, kit.NEON), "kernel")
    assembly = kit.build(func, kit.NEON).inspect_source("asm")
    assert "fdiv\tv" in assembly
    assert "frintx\tv" in assembly or "frintn\tv" in assembly
