"""This machine as a target, and whether it can run code for another."""

from __future__ import annotations

import platform

import tvm_ffi
from tvm.target.codegen import llvm_get_system_cpu

from tvmopt.errors import TargetError
from tvmopt.targets import features, host
from tvmopt.targets.catalog import TARGETS
from tvmopt.targets.description import CpuTarget

# Nearest catalogue entries, for facts that Linux hides; the first that this machine can run.
_FALLBACKS = ("x86-64-v4", "x86-64-v3", "x86-64-v2", "aarch64")


def detect() -> CpuTarget:
    """Return this machine as a target.

    LLVM names the CPU; features that the name implies and this machine lacks (a hypervisor may hide
    some) are taken away, and those it has besides are added. What Linux does not tell of caches
    comes from the catalogue's entry for the CPU, or for the highest level that it reaches.

    Raises:
        TargetError: The machine is no Linux on x86-64 or aarch64.
    """
    triple = _host_triple()
    cpu = str(llvm_get_system_cpu())
    changes = _changes(triple, cpu)
    present = features.cpu_features(triple, cpu, changes)
    known = _catalogue_entry(triple, cpu)
    bits, registers = features.registers(triple, present)
    caches = host.caches()
    return CpuTarget(
        name=f"native-{cpu}",
        triple=triple,
        cpu=cpu,
        features=changes,
        required=features.required_features(triple, present),
        cores=host.usable_cores(),
        vector_bits=bits,
        vector_registers=registers,
        fma_per_cycle=known.fma_per_cycle,
        l1d_bytes=caches.l1d or known.l1d_bytes,
        l2_bytes=caches.l2 or known.l2_bytes,
        l3_bytes=known.l3_bytes if caches.l3 is None else caches.l3,
    )


def check_runs_here(target: CpuTarget) -> None:
    """Check that this CPU can run code for ``target``.

    Raises:
        TargetError: It cannot; the message says what it lacks.
    """
    here = _host_triple()
    if features.family(target.triple) != features.family(here):
        raise TargetError(
            f"the artefact needs a CPU of {target.triple.split('-')[0]}, "
            f"this one is {here.split('-')[0]}; compile for 'native'"
        )
    missing = [name for name in target.required if name not in _host_features(here)]
    if missing:
        raise TargetError(
            f"the artefact needs {', '.join(missing)}, which this CPU lacks; "
            f"compile for 'native' or {_highest_level(here).name!r}"
        )


def _host_triple() -> str:
    triple = {"x86_64": "x86_64-linux-gnu", "aarch64": "aarch64-linux-gnu"}.get(platform.machine())
    if triple is None or platform.system() != "Linux":
        raise TargetError(
            "native must be Linux on x86_64 or aarch64, "
            f"this machine is {platform.system()} on {platform.machine()}; name a target"
        )
    return triple


def _host_features(triple: str) -> frozenset[str]:
    # TVM 0.27 wraps this LLVM query for its registry only.
    answers = tvm_ffi.get_global_func("tvm.codegen.llvm.GetHostCPUFeatures")()
    found = frozenset(str(name) for name, present in answers.items() if bool(present))
    return found | host.arm_features() if features.family(triple) == "aarch64" else found


def _changes(triple: str, cpu: str) -> tuple[str, ...]:
    """Return what to add to and to take from the features that the CPU's name implies."""
    implied = features.cpu_features(triple, cpu)
    present = _host_features(triple)
    names = features.arithmetic_features(triple)
    changes = [f"+{name}" for name in names if name in present - implied]
    changes += [f"-{name}" for name in names if name in implied - present]
    if "prefer-256-bit" in implied and "avx512f" in present:
        changes.append("-prefer-256-bit")  # as the catalogue's AVX-512 targets
    if features.family(triple) == "aarch64":
        # As the catalogue's Arm targets: no scalable vectors, no complex arithmetic.
        changes = [change for change in changes if not change.startswith("+sve")]
        unwanted = {"sve", "complxnum"} & (implied | present)
        changes += [f"-{name}" for name in sorted(unwanted) if f"-{name}" not in changes]
    return tuple(changes)


def _catalogue_entry(triple: str, cpu: str) -> CpuTarget:
    for target in TARGETS.values():
        if target.triple == triple and target.cpu == cpu:
            return target
    return _highest_level(triple)


def _highest_level(triple: str) -> CpuTarget:
    """Return the highest generic level that this machine reaches.

    Raises:
        TargetError: It reaches none.
    """
    present = _host_features(triple)
    for name in _FALLBACKS:
        target = TARGETS[name]
        if target.triple == triple and present.issuperset(target.required):
            return target
    raise TargetError(f"this CPU must reach x86-64-v2 or Armv8-A; it has {sorted(present)}")
