"""Mirror of targets/native.py."""

from __future__ import annotations

import dataclasses

import pytest
from tvm.target.codegen import llvm_get_vector_width

from tvmopt import targets
from tvmopt.errors import TargetError
from tvmopt.targets import features, host, native


def test_native_runs_here_and_is_what_llvm_builds_for() -> None:
    target = native.detect()
    targets.check_runs_here(target)
    assert llvm_get_vector_width(target.to_tvm()) == target.vector_bits
    present = features.cpu_features(target.triple, target.cpu, target.features)
    assert target.required == features.required_features(target.triple, present)
    assert 1 <= target.cores <= 4096
    assert targets.resolve("native") == target


def test_a_feature_that_a_hypervisor_hides_is_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    zen4 = targets.get("zen4")
    present = features.cpu_features(zen4.triple, zen4.cpu) - {"avx512vnni"}
    monkeypatch.setattr(native, "_host_triple", lambda: zen4.triple)
    monkeypatch.setattr(native, "_host_features", lambda _triple: present)
    monkeypatch.setattr(native, "llvm_get_system_cpu", lambda: "znver4")
    target = native.detect()
    assert "-avx512vnni" in target.features
    assert set(target.required) == set(zen4.required) - {"avx512vnni"}


def test_a_feature_that_the_name_does_not_imply_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    v3 = targets.get("x86-64-v3")
    present = features.cpu_features(v3.triple, v3.cpu) | {"avxvnni"}
    monkeypatch.setattr(native, "_host_triple", lambda: v3.triple)
    monkeypatch.setattr(native, "_host_features", lambda _triple: present)
    monkeypatch.setattr(native, "llvm_get_system_cpu", lambda: "x86-64-v3")
    assert native.detect().features == ("+avxvnni",)


def test_scalable_vectors_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    v1 = targets.get("neoverse-v1")
    present = features.cpu_features(v1.triple, v1.cpu)
    monkeypatch.setattr(native, "_host_triple", lambda: v1.triple)
    monkeypatch.setattr(native, "_host_features", lambda _triple: present)
    monkeypatch.setattr(native, "llvm_get_system_cpu", lambda: "neoverse-v1")
    target = native.detect()
    assert set(target.features) == set(v1.features)
    assert (target.required, target.vector_bits) == (v1.required, 128)


def test_a_machine_that_tells_nothing_takes_the_catalogue_s_caches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(host, "caches", host.Caches)
    target = native.detect()
    known = native._catalogue_entry(target.triple, target.cpu)  # the fallback under test
    assert (target.l1d_bytes, target.l2_bytes, target.l3_bytes) == (
        known.l1d_bytes,
        known.l2_bytes,
        known.l3_bytes,
    )


def test_a_cpu_that_lacks_a_feature_is_told_which(monkeypatch: pytest.MonkeyPatch) -> None:
    v3 = targets.get("x86-64-v3")
    monkeypatch.setattr(native, "_host_triple", lambda: v3.triple)
    monkeypatch.setattr(native, "_host_features", lambda _triple: frozenset(v3.required))
    targets.check_runs_here(v3)
    with pytest.raises(
        TargetError,
        match=r"the artefact needs avx512f, avx512bw, .*, which this CPU lacks; "
        "compile for 'native' or 'x86-64-v3'",
    ):
        targets.check_runs_here(targets.get("x86-64-v4"))


def test_another_architecture_is_named() -> None:
    here = native.detect()
    other = next(t for t in targets.TARGETS.values() if t.triple != here.triple)
    with pytest.raises(TargetError, match=r"needs a CPU of .*, this one is .*; compile for"):
        targets.check_runs_here(other)


def test_other_systems_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native.platform, "machine", lambda: "riscv64")
    with pytest.raises(TargetError, match=r"native must be Linux on x86_64 or aarch64, .*riscv64"):
        native.detect()


def test_a_name_is_not_hidden_by_a_dataclass_default() -> None:
    required = {field.name for field in dataclasses.fields(targets.CpuTarget)} - {"features"}
    with pytest.raises(TypeError, match="missing"):
        targets.CpuTarget(**dict.fromkeys(required - {"l3_bytes"}))
