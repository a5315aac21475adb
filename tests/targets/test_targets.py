"""Mirror of targets/: the catalogue and the description."""

from __future__ import annotations

import dataclasses

import pytest
import tvm
from tvm.target.codegen import llvm_get_vector_width

from tvmopt import targets
from tvmopt.codegen.features import check
from tvmopt.errors import TargetError
from tvmopt.targets import CpuTarget, features

EVERY = pytest.mark.parametrize("target", targets.TARGETS.values(), ids=lambda t: t.name)


def _features(target: CpuTarget) -> frozenset[str]:
    return features.cpu_features(target.triple, target.cpu, target.features)


@EVERY
def test_vector_registers_agree_with_what_llvm_knows_of_the_cpu(target: CpuTarget) -> None:
    assert llvm_get_vector_width(target.to_tvm()) == target.vector_bits
    assert features.registers(target.triple, _features(target)) == (
        target.vector_bits,
        target.vector_registers,
    )


@EVERY
def test_required_features_are_those_that_llvm_may_use(target: CpuTarget) -> None:
    assert set(target.required) == set(features.required_features(target.triple, _features(target)))
    assert len(set(target.required)) == len(target.required)


@EVERY
def test_an_artefact_can_check_every_required_feature(target: CpuTarget) -> None:
    for feature in target.required:
        assert check(target.triple, feature).name == feature


@EVERY
def test_facts_are_plausible(target: CpuTarget) -> None:
    assert 16 * 1024 <= target.l1d_bytes < target.l2_bytes <= 4 * 1024 * 1024
    assert target.l3_bytes == 0 or target.l2_bytes < target.l3_bytes
    assert 1 <= target.fma_per_cycle <= 4
    assert target.cores >= 1
    assert target.name == target.name.lower()


@EVERY
def test_no_target_leaves_llvm_a_choice_of_narrower_vectors(target: CpuTarget) -> None:
    assert "prefer-256-bit" not in _features(target)
    assert "sve" not in _features(target)


def test_lanes_is_at_least_one() -> None:
    target = targets.get("x86-64-v3")
    assert [target.lanes(bits) for bits in (8, 32, 64, 512)] == [32, 8, 4, 1]


def test_a_misspelt_cpu_is_an_error_and_not_a_generic_build() -> None:
    wrong = dataclasses.replace(targets.get("cortex-a76-pi5"), cpu="cortex-a999")
    with pytest.raises(
        TargetError, match="LLVM knows no cpu 'cortex-a999' for triple 'aarch64-linux-gnu'"
    ):
        wrong.to_tvm()


def test_unknown_name_lists_near_ones() -> None:
    with pytest.raises(TargetError, match="did you mean cortex-a76-pi5"):
        targets.get("cortex-a76")
    with pytest.raises(TargetError, match="no target is called 'q'; did you mean aarch64 or "):
        targets.get("q")


def _matmul(target: CpuTarget) -> str:
    """Return assembly of a small matrix product."""
    bb = tvm.relax.BlockBuilder()
    x = tvm.relax.Var("x", tvm.relax.TensorType((64, 64), "float32"))
    with bb.function("main", [x]):
        with bb.dataflow():
            out = bb.emit_output(tvm.relax.op.matmul(x, x))
        bb.emit_func_output(out)
    built = tvm.compile(bb.get(), target=target.to_tvm())
    return built.mod.imports[0].inspect_source("s")


@pytest.mark.parametrize(
    ("name", "instruction"),
    [("cortex-a76-pi5", "fmadd"), ("zen3", "vfmadd"), ("x86-64-v2", "mulss"), ("zen5", "vfmadd")],
)
def test_code_is_for_the_cpu_that_was_named(name: str, instruction: str) -> None:
    assert instruction in _matmul(targets.get(name))
