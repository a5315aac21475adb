"""Mirror of tvmopt/kernels/quantized_elementwise.py."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tvmopt.kernels.blocks import THREAD_MACS
from tvmopt.kernels.epilogue import STORE, Epilogue, Operand, Requantize, Step
from tvmopt.kernels.quantized_elementwise import (
    CHUNK,
    QuantizedElementwiseSite,
    cycles,
    quantized_elementwise,
)

OUT = Requantize(dtype="uint8", zero_point=128, low=0, high=255)
A, B = np.float32(0.842), np.float32(0.35)
SUM = (Step("scale", (0, float(A))), Step("sub", (1, 7.0)), Step("scale", (3, float(B))))
ADD = Epilogue((Operand.TENSOR,), (*SUM, Step("add", (2, 4))), ("uint8",), OUT)
GATE = Epilogue((Operand.CHANNEL,), (*SUM, Step("scale", (2, 4))), ("uint8",), OUT)


def expected(site: QuantizedElementwiseSite, x: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the program's result, one float32 rounding for each step."""
    left = (x.astype(np.float32) - np.float32(site.zero_point)) * A
    right = (other.astype(np.float32) - np.float32(7)) * B
    value = left + right if site.epilogue is ADD else left * right
    assert value.dtype == np.float32
    return np.clip(np.rint(value) + 128, 0, 255).astype(np.uint8)


@settings(derandomize=True, max_examples=8, deadline=None)
@given(
    rows=st.integers(1, 9),
    channels=st.integers(1, 70),
    dtype=st.sampled_from(["uint8", "int8"]),
    zero=st.sampled_from([0.0, 0.6, 1.0]),
)
@example(rows=1, channels=1, dtype="int8", zero=1.0)
@example(rows=3, channels=33, dtype="uint8", zero=0.6)  # a register and one element
@example(rows=CHUNK // 16, channels=40, dtype="uint8", zero=0.0)  # several chunks
@pytest.mark.parametrize("epilogue", [ADD, GATE], ids=["add", "gate"])
def test_every_step_is_rounded_once(
    kit: SimpleNamespace, epilogue: Epilogue, rows: int, channels: int, dtype: str, zero: float
) -> None:
    info, rng = np.iinfo(dtype), np.random.default_rng(rows * channels)
    site = QuantizedElementwiseSite(
        shape=(1, rows, channels),
        dtype=dtype,
        zero_point=round(info.min + zero * (info.max - info.min)),
        epilogue=epilogue,
    )
    x = rng.integers(info.min, info.max + 1, site.shape).astype(dtype)
    ((_, shape, *_),) = epilogue.operand_parameters(site.shape)
    other = rng.integers(0, 256, shape).astype(np.uint8)
    got = kit.run(quantized_elementwise(site, kit.HERE, "qu8_vadd"), x, other)
    assert np.array_equal(got, expected(site, x, other))


def test_every_pair_of_bytes_adds_up(kit: SimpleNamespace) -> None:
    # Of all 65,536 sums a multiply-add of either product would round 10 or 11 otherwise.
    x, other = (side.astype(np.uint8) for side in np.mgrid[:256, :256])
    site = QuantizedElementwiseSite(shape=x.shape, dtype="uint8", zero_point=131, epilogue=ADD)
    got = kit.run(quantized_elementwise(site, kit.HERE, "qu8_vadd"), x, other)
    assert np.array_equal(got, expected(site, x, other))


def test_halves_go_to_the_even_integer(kit: SimpleNamespace) -> None:
    steps = (Step("scale", (0, 0.5)), Step("scale", (1, 0.5)), Step("add", (2, 3)))
    site = QuantizedElementwiseSite(
        shape=(8,),
        dtype="uint8",
        zero_point=0,
        epilogue=Epilogue((Operand.TENSOR,), steps, ("uint8",), OUT),
    )
    x = np.array([0, 1, 2, 3, 4, 5, 253, 255], np.uint8)
    got = kit.run(quantized_elementwise(site, kit.HERE, "qu8_vadd"), x, np.zeros_like(x))
    assert (got.astype(int) - 128).tolist() == [0, 0, 1, 2, 2, 2, 126, 127]


@pytest.mark.parametrize("machine", ["AVX2", "AVX512", "NEON"])
@pytest.mark.parametrize("epilogue", [ADD, GATE], ids=["add", "gate"])
def test_the_code_is_vectors_without_multiply_adds(
    kit: SimpleNamespace, epilogue: Epilogue, machine: str
) -> None:
    target = getattr(kit, machine)
    site = QuantizedElementwiseSite(
        shape=(14, 14, 128), dtype="uint8", zero_point=3, epilogue=epilogue
    )
    loops = kit.loops(quantized_elementwise(site, target, "qu8_vadd"), target)
    converting = [loop for loop in loops if loop.count(r"vcvtdq2ps|[su]cvtf\s+v\d+\.4s")]
    assert converting
    assert not [loop for loop in converting if loop.multiply_adds(target) or loop.calls]
    assert not [loop for loop in converting if loop.count(r"vcvtsi2ss|vmulss|fmul\s+s")]


def test_large_tensors_are_shared_among_threads(kit: SimpleNamespace) -> None:
    def script(rows: int) -> str:
        site = QuantizedElementwiseSite(shape=(rows, 16), dtype="uint8", zero_point=0, epilogue=ADD)
        return quantized_elementwise(site, kit.AVX2, "qu8_vadd").script()

    assert "T.parallel" not in script(16)
    assert "T.parallel" in script(THREAD_MACS // 16)


def test_more_steps_and_more_elements_cost_more(kit: SimpleNamespace) -> None:
    def predict(rows: int, epilogue: Epilogue) -> float:
        site = QuantizedElementwiseSite(
            shape=(rows, 64), dtype="uint8", zero_point=0, epilogue=epilogue
        )
        return cycles(site, kit.AVX2)

    assert 0 < predict(64, STORE) < predict(64, ADD) < predict(128, ADD)
