"""How an artefact asks a CPU whether it has a feature, by LLVM's name for it.

Sources: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2A, "CPUID", and
volume 1, 13.3 (XCR0); AMD64 Architecture Programmer's Manual, volume 3, appendix E; Linux
arch/arm64/include/uapi/asm/hwcap.h and arch/arm/include/uapi/asm/hwcap.h.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvmopt.errors import TargetError

_EBX, _ECX, _EDX, _EAX = 1, 2, 3, 0
_AVX_STATE = 0x6  # XCR0: SSE and AVX registers
_AVX512_STATE = 0xE6  # and opmasks, upper halves, upper registers
_AMX_STATE = 0x60000
_HWCAP, _HWCAP2 = 16, 26  # auxiliary vector types


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One row of the artefact's table; the fields are those of cpu_feature in internal.h."""

    name: str
    leaf: int
    subleaf: int = 0
    word: int = 0
    mask: int
    os_state: int = 0


# name: leaf, subleaf, register, bit, XCR0 bits that must be set
_X86 = {
    "sse": (1, 0, _EDX, 25, 0),
    "sse2": (1, 0, _EDX, 26, 0),
    "sse3": (1, 0, _ECX, 0, 0),
    "pclmul": (1, 0, _ECX, 1, 0),
    "ssse3": (1, 0, _ECX, 9, 0),
    "fma": (1, 0, _ECX, 12, _AVX_STATE),
    "cx16": (1, 0, _ECX, 13, 0),
    "sse4.1": (1, 0, _ECX, 19, 0),
    "sse4.2": (1, 0, _ECX, 20, 0),
    "movbe": (1, 0, _ECX, 22, 0),
    "popcnt": (1, 0, _ECX, 23, 0),
    "aes": (1, 0, _ECX, 25, 0),
    "avx": (1, 0, _ECX, 28, _AVX_STATE),
    "f16c": (1, 0, _ECX, 29, _AVX_STATE),
    "bmi": (7, 0, _EBX, 3, 0),
    "avx2": (7, 0, _EBX, 5, _AVX_STATE),
    "bmi2": (7, 0, _EBX, 8, 0),
    "avx512f": (7, 0, _EBX, 16, _AVX512_STATE),
    "avx512dq": (7, 0, _EBX, 17, _AVX512_STATE),
    "adx": (7, 0, _EBX, 19, 0),
    "avx512ifma": (7, 0, _EBX, 21, _AVX512_STATE),
    "avx512cd": (7, 0, _EBX, 28, _AVX512_STATE),
    "sha": (7, 0, _EBX, 29, 0),
    "avx512bw": (7, 0, _EBX, 30, _AVX512_STATE),
    "avx512vl": (7, 0, _EBX, 31, _AVX512_STATE),
    "avx512vbmi": (7, 0, _ECX, 1, _AVX512_STATE),
    "avx512vbmi2": (7, 0, _ECX, 6, _AVX512_STATE),
    "gfni": (7, 0, _ECX, 8, 0),
    "vaes": (7, 0, _ECX, 9, _AVX_STATE),
    "vpclmulqdq": (7, 0, _ECX, 10, _AVX_STATE),
    "avx512vnni": (7, 0, _ECX, 11, _AVX512_STATE),
    "avx512bitalg": (7, 0, _ECX, 12, _AVX512_STATE),
    "avx512vpopcntdq": (7, 0, _ECX, 14, _AVX512_STATE),
    "amx-bf16": (7, 0, _EDX, 22, _AMX_STATE),
    "avx512fp16": (7, 0, _EDX, 23, _AVX512_STATE),
    "amx-tile": (7, 0, _EDX, 24, _AMX_STATE),
    "amx-int8": (7, 0, _EDX, 25, _AMX_STATE),
    "avxvnni": (7, 1, _EAX, 4, _AVX_STATE),
    "avx512bf16": (7, 1, _EAX, 5, _AVX512_STATE),
    "avxifma": (7, 1, _EAX, 23, _AVX_STATE),
    "avxvnniint8": (7, 1, _EDX, 4, _AVX_STATE),
    "avxneconvert": (7, 1, _EDX, 5, _AVX_STATE),
    "avxvnniint16": (7, 1, _EDX, 10, _AVX_STATE),
    "sahf": (0x80000001, 0, _ECX, 0, 0),
    "lzcnt": (0x80000001, 0, _ECX, 5, 0),
}

# name: auxiliary vector type, bit
_AARCH64 = {
    "fp-armv8": (_HWCAP, 0),
    "neon": (_HWCAP, 1),
    "aes": (_HWCAP, 3),
    "sha2": (_HWCAP, 6),
    "crc": (_HWCAP, 7),
    "lse": (_HWCAP, 8),
    "fullfp16": (_HWCAP, 10),
    "rdm": (_HWCAP, 12),
    "dotprod": (_HWCAP, 20),
    "fp16fml": (_HWCAP, 23),
    "sve": (_HWCAP, 22),
    "sve2": (_HWCAP2, 1),
    "i8mm": (_HWCAP2, 13),
    "bf16": (_HWCAP2, 14),
    "sme": (_HWCAP2, 23),
}

_ARM = {
    "vfp3": (_HWCAP, 13),
    "neon": (_HWCAP, 12),
    "vfp4": (_HWCAP, 16),
    "hwdiv-arm": (_HWCAP, 17),
    "hwdiv": (_HWCAP, 18),
    "fullfp16": (_HWCAP, 23),
    "dotprod": (_HWCAP, 24),
    "bf16": (_HWCAP, 26),
    "i8mm": (_HWCAP, 27),
}


def architecture(triple: str) -> str:
    """Return the family of a triple's CPU: "x86", "aarch64", "arm", or its first part."""
    first = triple.split("-", maxsplit=1)[0]
    if first in {"x86_64", "amd64", "i386", "i486", "i586", "i686"}:
        return "x86"
    if first in {"aarch64", "arm64"}:
        return "aarch64"
    return "arm" if first.startswith(("arm", "thumb")) else first


def check(triple: str, name: str) -> Check:
    """Return how to ask for the feature ``name``.

    Raises:
        TargetError: The artefact could not check it, so it would crash instead of refusing.
    """
    family = architecture(triple)
    if family == "x86" and name in _X86:
        leaf, subleaf, word, bit, os_state = _X86[name]
        return Check(
            name=name, leaf=leaf, subleaf=subleaf, word=word, mask=1 << bit, os_state=os_state
        )
    table = {"aarch64": _AARCH64, "arm": _ARM}.get(family, {})
    if name in table:
        kind, bit = table[name]
        return Check(name=name, leaf=kind, mask=1 << bit)
    raise TargetError(
        f"a required feature must be one that an artefact can check on {family}, got {name!r}"
    )
