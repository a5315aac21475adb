"""Mirror of targets/features.py."""

from __future__ import annotations

import pytest

from tvmopt.errors import TargetError
from tvmopt.targets import features

X86, ARM = "x86_64-linux-gnu", "aarch64-linux-gnu"


def test_a_feature_that_is_taken_away_takes_those_that_need_it() -> None:
    present = features.cpu_features(X86, "znver4", ("-avx512f",))
    assert "avx2" in present
    assert not any(name.startswith("avx512") for name in present)


def test_known_features_are_those_of_the_architecture() -> None:
    assert {"avx512f", "sse2", "avxvnni"} <= features.known_features(X86)
    assert {"neon", "sve2", "i8mm"} <= features.known_features(ARM)
    assert "neon" not in features.known_features(X86)
    assert "avx2" not in features.known_features(ARM)


def test_registers_go_by_the_widest_set() -> None:
    assert features.registers(X86, {"sse2"}) == (128, 16)
    assert features.registers(X86, {"sse2", "avx"}) == (128, 16)  # integers have 128 bits then
    assert features.registers(X86, {"sse2", "avx", "avx2", "avx512f"}) == (512, 32)
    with pytest.raises(TargetError, match="must have the feature 'neon', which is taken away"):
        features.registers(ARM, {"crc"})


def test_required_features_leave_out_what_no_kernel_uses() -> None:
    assert features.required_features(X86, {"sha", "avx2", "fma"}) == ("avx2", "fma")


def test_other_architectures_are_refused() -> None:
    with pytest.raises(TargetError, match="must be x86_64 or aarch64, got 'riscv64'"):
        features.family("riscv64-linux-gnu")
