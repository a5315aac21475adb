"""Mirror of tvmopt/kernels/quantized_mean.py."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tvmopt.kernels.blocks import THREAD_MACS
from tvmopt.kernels.epilogue import STORE, Epilogue, Requantize, Step
from tvmopt.kernels.pool import PoolSite
from tvmopt.kernels.quantized_mean import (
    SHORT_TAPS,
    QuantizedMeanSite,
    cycles,
    factors,
    quantized_mean,
)

HARD = (Step("max", (0, 0.0)),)


def case(height: int, width: int, channels: int, **other: object) -> PoolSite:
    given_ = {"batch": 1, "kernel": (2, 2), "strides": (1, 1), "pads": (0, 0, 0, 0), **other}
    sizes = (
        size + given_["pads"][axis] + given_["pads"][axis + 2] - given_["kernel"][axis]
        for axis, size in enumerate((height, width))
    )
    out = tuple(s // step + 1 for s, step in zip(sizes, given_["strides"], strict=True))
    size = {"height": height, "width": width, "channels": channels}
    return PoolSite(kind="mean", **size, **{"dtype": "uint8", "out_size": out, **given_})


@st.composite
def windows(draw: st.DrawFn) -> PoolSite:
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    pads = [draw(st.integers(0, k - 1)) for k in (*kernel, *kernel)]
    return case(
        draw(st.integers(max(1, kernel[0] - pads[0] - pads[2]), 9)),
        draw(st.integers(max(1, kernel[1] - pads[1] - pads[3]), 9)),
        draw(st.integers(1, 75)),
        batch=draw(st.integers(1, 2)),
        kernel=kernel,
        strides=draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        pads=tuple(pads),
        count_pad=draw(st.booleans()),
        dtype=draw(st.sampled_from(["uint8", "int8"])),
    )


def reference(site: QuantizedMeanSite, table: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return the means as float32: an exact sum and one rounding."""
    pool = site.windows
    (top, left, _, _), (kh, kw) = pool.pads, pool.kernel
    out = np.empty(pool.output_shape, np.float32)
    centred = x.astype(np.int64) - site.zero_point
    for oh, ow in np.ndindex(*pool.out_size):
        y, z = oh * pool.strides[0] - top, ow * pool.strides[1] - left
        seen = centred[:, max(y, 0) : max(y + kh, 0), max(z, 0) : max(z + kw, 0)]
        count = seen.shape[1] * seen.shape[2]
        out[:, oh, ow] = seen.sum((1, 2)).astype(np.float32) * table[count]
    return out


def integers(site: PoolSite, seed: int) -> np.ndarray:
    """Return any integers, the extreme ones among them often."""
    rng, info = np.random.default_rng(seed), np.iinfo(site.dtype)
    x = rng.integers(info.min, info.max + 1, site.input_shape)
    ends = rng.choice([info.min, info.max], site.input_shape)
    return np.where(rng.random(site.input_shape) < 0.5, x, ends).astype(site.dtype)


@settings(derandomize=True, max_examples=12, deadline=None)
@given(pool=windows(), zero=st.sampled_from(["least", "greatest", "between"]), seed=st.integers(0))
@example(pool=case(7, 7, 40, kernel=(7, 7)), zero="between", seed=1)  # the global mean
@example(pool=case(12, 12, 9, kernel=(12, 12), dtype="int8"), zero="least", seed=2)  # 32-bit sums
@example(pool=case(1, 1, 3, kernel=(2, 2), pads=(1, 1, 0, 0)), zero="greatest", seed=3)
def test_sums_are_exact_and_rounded_once(
    kit: SimpleNamespace, pool: PoolSite, zero: str, seed: int
) -> None:
    info = np.iinfo(pool.dtype)
    zero_point = {"least": info.min, "greatest": info.max, "between": info.min + 77}[zero]
    output = Requantize(dtype="uint8", zero_point=3, low=0, high=255)
    x = integers(pool, seed)
    for epilogue in (Epilogue(output=output), Epilogue(steps=HARD), STORE):
        site = QuantizedMeanSite(windows=pool, zero_point=int(zero_point), epilogue=epilogue)
        table = factors(site, 0.0371 / 0.0209)
        expected = reference(site, table, x)
        if epilogue.steps:
            expected = np.maximum(expected, np.float32(0))
        if epilogue.output:
            expected = np.clip(np.rint(expected) + 3, 0, 255).astype(np.uint8)
        got = kit.run(quantized_mean(site, kit.HERE, "qu8_avgpool"), x, table)
        assert np.array_equal(got, expected)


def test_a_half_goes_to_the_even_integer(kit: SimpleNamespace) -> None:
    pool = case(2, 1, 8, kernel=(2, 1))
    output = Requantize(dtype="uint8", zero_point=0, low=0, high=255)
    site = QuantizedMeanSite(windows=pool, zero_point=0, epilogue=Epilogue(output=output))
    x = np.array([[0, 1, 2, 3, 4, 252, 254, 255], [1, 2, 3, 4, 5, 253, 255, 254]], np.uint8)
    got = kit.run(quantized_mean(site, kit.HERE, "qu8"), x[None, :, None], factors(site, 1.0))
    assert got.ravel().tolist() == [0, 2, 2, 4, 4, 252, 254, 254]


def test_a_mean_divides_by_what_it_saw_or_by_the_whole_window() -> None:
    site = QuantizedMeanSite(windows=case(4, 4, 4), zero_point=0, epilogue=STORE)
    assert factors(site, 3.0).tolist() == [3.0, 3.0, 1.5, 1.0, 0.75]
    padded = replace(site, windows=replace(site.windows, count_pad=True))
    assert factors(padded, 3.0).tolist() == [0.75] * 5


def test_the_most_elements_of_a_16_bit_sum_do_not_overflow(kit: SimpleNamespace) -> None:
    for dtype, value in (("uint8", 255), ("int8", -128)):
        pool = case(1, SHORT_TAPS, 16, kernel=(1, SHORT_TAPS), dtype=dtype)
        site = QuantizedMeanSite(windows=pool, zero_point=0, epilogue=STORE)
        func = quantized_mean(site, kit.HERE, "qu8")
        assert "int16" in func.script()
        x = np.full(pool.input_shape, value, dtype)
        assert (kit.run(func, x, factors(site, 1.0)) == value).all()


@pytest.mark.parametrize("machine", ["AVX2", "AVX512", "NEON"])
def test_the_sums_stay_in_vector_registers(kit: SimpleNamespace, machine: str) -> None:
    target = getattr(kit, machine)
    output = Requantize(dtype="uint8", zero_point=0, low=0, high=255)
    pool = case(7, 7, 256, kernel=(7, 7))
    site = QuantizedMeanSite(windows=pool, zero_point=9, epilogue=Epilogue(output=output))
    loops = kit.loops(quantized_mean(site, target, "qu8"), target)
    adding = [loop for loop in loops if loop.count(r"v?paddw|add\s+v\d+\.8h|uaddw")]
    assert adding
    assert not [line for loop in adding for line in loop.spills]


def test_large_poolings_share_their_work_among_threads(kit: SimpleNamespace) -> None:
    def script(channels: int) -> str:
        site = QuantizedMeanSite(windows=case(8, 8, channels), zero_point=0, epilogue=STORE)
        return quantized_mean(site, kit.AVX2, "qu8").script()

    assert "T.parallel" not in script(8)
    assert "T.parallel" in script(THREAD_MACS // 100)


def test_eight_times_the_channels_cost_more(kit: SimpleNamespace) -> None:
    def predict(channels: int) -> float:
        site = QuantizedMeanSite(windows=case(28, 28, channels), zero_point=0, epilogue=STORE)
        return cycles(site, kit.AVX2)

    assert predict(512) > 4 * predict(64) > 0
