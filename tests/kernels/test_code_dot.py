"""Mirror of tvmopt/kernels/code_dot.py; that sums are exact is tested with code_gemm."""

from __future__ import annotations

import pytest

from tvmopt.kernels.code_dot import CodeDot, capacity, kind
from tvmopt.targets import resolve


@pytest.mark.parametrize("bits", range(2, 8))
def test_as_many_sums_as_fit_16_bits_are_added_up(bits: int) -> None:
    most = 2 * (2**bits - 1) * 127  # of two products
    assert capacity(bits) * most <= 2**15 - 1 < (capacity(bits) + 1) * most


def test_a_code_of_8_bits_would_not_fit() -> None:
    assert capacity(8) == 0


@pytest.mark.parametrize(
    ("machine", "lanes", "wanted"),
    [
        ("x86-64-v3", 8, "vpmaddubsw"),
        ("x86-64-v3", 5, "plain"),  # no whole register
        ("x86-64-v3,+avxvnni", 8, "vpdpbusd"),
        ("x86-64-v4", 16, "vpmaddubsw"),
        ("x86-64-v4,+avx512vnni", 16, "vpdpbusd"),
        ("cortex-a76-pi5", 4, "sdot"),
        ("cortex-a76-pi5", 3, "plain"),
    ],
)
def test_the_way_follows_the_machine(machine: str, lanes: int, wanted: str) -> None:
    assert kind(resolve(machine), lanes) == wanted


def test_signed_bytes_hold_codes_of_8_bits_moved() -> None:
    assert CodeDot("sdot", 8, 4).moved == 128
    assert CodeDot("sdot", 7, 4).moved == CodeDot("vpdpbusd", 8, 8).moved == 0
