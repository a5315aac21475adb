"""Mirror of tvmopt/schedule/transpose.py; exact, for no number is computed."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

from tvmopt.targets import get

R = relax.op

LENGTHS = st.sampled_from([1, 3, 7, 8, 9, 15, 16, 17, 31, 40])


@settings(derandomize=True, max_examples=12, deadline=None)
@given(
    shape=st.tuples(LENGTHS, LENGTHS, LENGTHS),
    order=st.permutations([0, 1, 2]),
    dtype=st.sampled_from(["float32", "float32", "int32", "int8", "float64"]),
)
def test_any_transpose_moves_every_element(
    rest: Any, shape: tuple[int, ...], order: list[int], dtype: str
) -> None:
    x = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    got = rest.run(lambda x: R.permute_dims(x, order), x)
    np.testing.assert_array_equal(got, x.transpose(order))


@pytest.mark.parametrize("rows", [40, 512], ids=["one thread", "several"])
def test_last_blocks_overlap_others(rest: Any, rows: int) -> None:
    x = np.arange(rows * 523, dtype=np.float32).reshape(rows, 523)
    np.testing.assert_array_equal(rest.run(lambda x: R.permute_dims(x, [1, 0]), x), x.T)


@pytest.mark.parametrize(
    ("target", "shuffle", "single"),
    [
        ("x86-64-v3", r"vperm2f128|vunpck\w+|vshufps|vblendps|vmovs\wdup", r"vmovss"),
        ("x86-64-v4", r"vshuff\w+|vperm\w+|vunpck\w+|vblend\w+", r"vmovss"),
        ("cortex-a76-pi5", r"trn1|zip1", r"(ldr|str)\s+s\d+,"),
    ],
)
def test_blocks_are_turned_in_registers(rest: Any, target: str, shuffle: str, single: str) -> None:
    there = dataclasses.replace(rest, target=get(target))
    x = np.zeros((64, 96), np.float32)
    assembly = there.assembly(lambda x: R.permute_dims(x, [1, 0]), x)
    assert len(re.findall(rf"\b({shuffle})\b", assembly)) >= 8
    assert not re.search(rf"\b{single}", assembly)


def test_a_channels_last_image_becomes_planes_and_back(rest: Any) -> None:
    x = np.arange(2 * 7 * 9 * 24, dtype=np.float32).reshape(2, 7, 9, 24)
    planes = rest.run(lambda x: R.permute_dims(x, [0, 3, 1, 2]), x)
    np.testing.assert_array_equal(planes, x.transpose(0, 3, 1, 2))
    back = rest.run(lambda x: R.permute_dims(x, [0, 2, 3, 1]), np.ascontiguousarray(planes))
    np.testing.assert_array_equal(back, x)
