"""What LLVM knows of CPUs and their features.

TVM alone logs a CPU or a feature that LLVM does not know and builds without it; here both are
questions with an answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from tvm.target import Target
from tvm.target.codegen import llvm_get_cpu_archlist, llvm_get_cpu_features

from tvmopt.errors import TargetError

# The instruction sets that LLVM may use for arithmetic that names none of them; an artefact must
# check these, and need not check the others that a CPU has (encryption, virtual machines, ...).
# Sources: the subtarget features that LLVM's X86 and AArch64 back ends test in instruction
# selection, https://github.com/llvm/llvm-project, X86ISelLowering.cpp and AArch64ISelLowering.cpp.
_ARITHMETIC = {
    "x86": (
        "sse3",
        "ssse3",
        "sse4.1",
        "sse4.2",
        "popcnt",
        "movbe",
        "lzcnt",
        "bmi",
        "bmi2",
        "f16c",
        "avx",
        "avx2",
        "fma",
        "gfni",
        "avx512f",
        "avx512bw",
        "avx512cd",
        "avx512dq",
        "avx512vl",
        "avx512ifma",
        "avx512vbmi",
        "avx512vbmi2",
        "avx512vnni",
        "avx512bitalg",
        "avx512vpopcntdq",
        "avx512bf16",
        "avx512fp16",
        "avxvnni",
        "avxvnniint8",
        "avxvnniint16",
        "avxifma",
        "avxneconvert",
    ),
    "aarch64": (
        "neon",
        "rdm",
        "fullfp16",
        "fp16fml",
        "dotprod",
        "i8mm",
        "bf16",
        "sve",
        "sve2",
    ),
}

# (feature, register bits, registers), widest first. Source: the manuals of each instruction set;
# the scalable registers of SVE are not used, and its targets turn it off.
_REGISTERS = {
    "x86": (("avx512f", 512, 32), ("avx2", 256, 16), ("sse2", 128, 16)),
    "aarch64": (("neon", 128, 32),),
}


def family(triple: str) -> str:
    """Return the key of a triple's architecture here: ``"x86"`` or ``"aarch64"``.

    Raises:
        TargetError: It is another one.
    """
    architecture = triple.split("-", maxsplit=1)[0]
    families = {"x86_64": "x86", "amd64": "x86", "aarch64": "aarch64", "arm64": "aarch64"}
    if architecture not in families:
        raise TargetError(
            f"a target's architecture must be x86_64 or aarch64, got {architecture!r}"
        )
    return families[architecture]


def arithmetic_features(triple: str) -> tuple[str, ...]:
    """Return the features of a triple's architecture that arithmetic may use."""
    return _ARITHMETIC[family(triple)]


@cache
def cpu_features(triple: str, cpu: str, changes: tuple[str, ...] = ()) -> frozenset[str]:
    """Return the features that code for ``cpu`` may use.

    Args:
        triple: LLVM target triple.
        cpu: LLVM CPU name.
        changes: Features to add or take away, each with its sign.
    """
    target = {"kind": "llvm", "mtriple": triple, "mcpu": cpu, "mattr": list(changes)}
    return frozenset(llvm_get_cpu_features(Target(target)))


@cache
def known_features(triple: str) -> frozenset[str]:
    """Return every feature that LLVM gives to any CPU of a triple's architecture."""
    target = Target({"kind": "llvm", "mtriple": triple})
    found: set[str] = set(arithmetic_features(triple))
    for cpu in llvm_get_cpu_archlist(target):
        found |= cpu_features(triple, str(cpu))
    return frozenset(found)


def required_features(triple: str, features: Iterable[str]) -> tuple[str, ...]:
    """Return those of a CPU's features that an artefact for it must check."""
    present = set(features)
    return tuple(name for name in arithmetic_features(triple) if name in present)


def registers(triple: str, features: Iterable[str]) -> tuple[int, int]:
    """Return the width of a SIMD register in bits, and how many there are.

    Raises:
        TargetError: The features leave no SIMD registers.
    """
    present = set(features)
    for feature, bits, count in _REGISTERS[family(triple)]:
        if feature in present:
            return bits, count
    least = _REGISTERS[family(triple)][-1][0]
    raise TargetError(f"a target must have the feature {least!r}, which is taken away here")
