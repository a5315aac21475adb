"""Mirror of targets/parse.py."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm.target.codegen import llvm_get_vector_width

from tvmopt import targets
from tvmopt.errors import TargetError


def test_a_catalogue_name_is_that_target() -> None:
    for name, target in targets.TARGETS.items():
        assert targets.resolve(name) == target


def test_cores_replace_the_catalogue_s() -> None:
    assert targets.resolve("zen3,cores=2") == dataclasses.replace(
        targets.get("zen3"), name="zen3,cores=2", cores=2
    )


def test_a_feature_less_narrows_the_registers() -> None:
    target = targets.resolve("zen4, -avx512f")
    assert (target.name, target.vector_bits, target.vector_registers) == ("zen4,-avx512f", 256, 16)
    assert not any(name.startswith("avx512") for name in target.required)
    assert llvm_get_vector_width(target.to_tvm()) == 256


def test_a_feature_more_is_required_with_what_it_needs() -> None:
    target = targets.resolve("x86-64-v3,+avx512vnni")
    assert {"avx512vnni", "avx512f"} <= set(target.required)
    assert target.vector_bits == 512


def test_the_order_of_features_does_not_matter() -> None:
    one = targets.resolve("x86-64-v4,+avx512vnni,-avx512dq")
    two = targets.resolve("x86-64-v4,-avx512dq,+avx512vnni")
    assert dataclasses.replace(one, name="") == dataclasses.replace(two, name="")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("zen33", "no target is called 'zen33'; did you mean zen3 or"),
        ("nativ", "no target is called 'nativ'; did you mean native"),
        ("Native,cores=2", "no target is called 'Native'; did you mean native"),
        ("haswel", "no target is called 'haswel'; did you mean haswell"),
        ("cortex-a76-pi", "no target is called 'cortex-a76-pi'; did you mean cortex-a76-pi5"),
        ("Sapphire-Rapid", "no target is called 'Sapphire-Rapid'; did you mean sapphire-rapids"),
        ("riscv64", "no target is called 'riscv64'; did you mean .*native or "),
        ("x86-64-v3,+neon", r"LLVM knows for 'x86_64-linux-gnu', got '\+neon'"),
        ("neoverse-n1,+avx2", r"LLVM knows for 'aarch64-linux-gnu', got '\+avx2'"),
        ("zen3,+avx51f", "got '.avx51f'; did you mean avx512f"),
        ("x86-64-v3,+avx2,-avx2", "a feature must be named once, got 'avx2' 2 times"),
        ("x86-64-v3,+avx512vnni,-avx512f", r"contradict .* got '\+avx512vnni' with '-avx512f'"),
        ("x86-64-v3,-sse2", "must have the feature 'sse2', which is taken away here"),
        ("x86-64-v3,cores=0", "cores must be a number from 1 to 1024, got '0'"),
        ("x86-64-v3,cores=many", "cores must be a number from 1 to 1024, got 'many'"),
        ("x86-64-v3,threads=2", r"\+feature, -feature or cores=N, got 'threads=2'"),
        ("x86-64-v3,", r"\+feature, -feature or cores=N, got '' in 'x86-64-v3,'"),
        ("", "no target is called ''"),
    ],
)
def test_bad_text_is_refused_in_one_sentence(text: str, message: str) -> None:
    with pytest.raises(TargetError, match=message) as caught:
        targets.resolve(text)
    assert "\n" not in str(caught.value)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.text(alphabet="zen3avx512f+-=,cores x\n\x00é٣", max_size=24))
def test_any_text_is_a_target_or_a_target_error(text: str) -> None:
    try:
        target = targets.resolve(text)
    except TargetError:
        return
    assert target.cores >= 1
