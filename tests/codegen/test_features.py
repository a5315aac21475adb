"""Feature checks are those that the kernel reports on this machine."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import pytest

from tvmopt.codegen import emit, features
from tvmopt.errors import TargetError

# LLVM's name, and Linux's in /proc/cpuinfo, where they differ.
LINUX = {
    "pclmul": "pclmulqdq",
    "sse3": "pni",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
    "bmi": "bmi1",
    "sha": "sha_ni",
    "lzcnt": "abm",
    "sahf": "lahf_lm",
    "avx512vbmi2": "avx512_vbmi2",
    "avx512vnni": "avx512_vnni",
    "avx512bitalg": "avx512_bitalg",
    "avx512vpopcntdq": "avx512_vpopcntdq",
    "avx512bf16": "avx512_bf16",
    "avx512fp16": "avx512_fp16",
    "amx-bf16": "amx_bf16",
    "amx-tile": "amx_tile",
    "amx-int8": "amx_int8",
    "avxvnni": "avx_vnni",
}
# Newer than the kernels this runs on may report.
UNREPORTED = {"avxifma", "avxvnniint8", "avxneconvert", "avxvnniint16"}

_PROGRAM = """
#include <stdio.h>
#include "internal.h"
#include "features.h"
#include "features.c"
int main(void) {
    for (int32_t i = 0; i < PLAN_FEATURES; i++)
        if (has_feature(&plan_features[i])) puts(plan_features[i].name);
    return 0;
}
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="compares with x86's /proc/cpuinfo")
def test_checks_agree_with_linux(tmp_path: Path) -> None:
    names = sorted(set(features._X86) - UNREPORTED)
    checks = [features.check("x86_64-linux-gnu", name) for name in names]
    for name, data in emit.source_files().items():
        (tmp_path / name).write_bytes(data)
    rows = ",\n".join(emit._feature(check) for check in checks)
    (tmp_path / "features.h").write_text(f"static const cpu_feature plan_features[] = {{{rows}}};")
    (tmp_path / "main.c").write_text(_PROGRAM)
    macros = {
        "TVMOPT_NAME": "m",
        "PLAN_SHAPES": 1,
        "PLAN_ARGUMENTS": 1,
        "PLAN_FEATURES": len(names),
    }
    flags = [f"-D{key}={value}" for key, value in macros.items()]
    step = "typedef void (*tvmopt_step_fn)(void);\n"
    (tmp_path / "types.h").write_text(step)
    command = ["cc", "-std=c11", *flags, "-include", "types.h", "-w", "main.c", "-o", "main"]
    subprocess.run(command, cwd=tmp_path, check=True)
    found = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True)
    line = next(x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("flags"))
    flags_ = set(line.split(":")[1].split())
    assert found.stdout.split() == [name for name in names if LINUX.get(name, name) in flags_]


@pytest.mark.parametrize(
    ("triple", "name"),
    [("x86_64-linux-gnu", "neon"), ("aarch64-linux-gnu", "avx2"), ("riscv64-linux-gnu", "v")],
)
def test_features_of_another_architecture_are_refused(triple: str, name: str) -> None:
    with pytest.raises(TargetError, match=f"that an artefact can check on .*, got '{name}'"):
        features.check(triple, name)


@pytest.mark.parametrize(
    ("triple", "family"),
    [
        ("x86_64-unknown-linux-gnu", "x86"),
        ("i686-linux-gnu", "x86"),
        ("aarch64-linux-gnu", "aarch64"),
        ("armv7a-linux-gnueabihf", "arm"),
        ("riscv64-linux-gnu", "riscv64"),
    ],
)
def test_architecture_is_the_triples_first_part(triple: str, family: str) -> None:
    assert features.architecture(triple) == family
