"""What the linker made: which names show, which are asked for, how large it is."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tvm
from tvm import te

from tvmopt import codegen
from tvmopt.codegen import emit, features, graph, link
from tvmopt.codegen.planner import make_plan
from tvmopt.errors import ArtifactError, ToolchainError
from tvmopt.runtime.elf import ElfFile
from tvmopt.targets.description import CpuTarget

Compiled = Callable[..., Path]

# Put in by the compiler's start files; all weak, so nobody needs to have them.
START_FILES = {
    "_ITM_deregisterTMCloneTable",
    "_ITM_registerTMCloneTable",
    "__cxa_finalize",
    "__gmon_start__",
}
LIBRARIES = ["libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "ld-linux-x86-64.so.2"]


def busy_module(make: SimpleNamespace) -> tvm.IRModule:
    """Return a module whose kernels use libm, workspace, the pool, and half floats."""
    x = te.placeholder((64, 2048), name="x")
    y = te.compute(x.shape, lambda i, j: te.exp(x[i, j]), name="y")
    z = te.compute(x.shape, lambda i, j: te.erf(y[i, j]) + te.tanh(y[i, 2047 - j]), name="z")
    func = te.create_prim_func([x, z])
    sch = tvm.s_tir.Schedule(func)
    rows = sch.get_loops(sch.get_sblock("z"))[0]
    sch.parallel(rows)
    sch.compute_at(sch.get_sblock("y"), rows)
    half = make.elementwise(lambda a: te.sqrt(a) * a, (64,), dtype="float16")
    builder = make.Builder(x=(64, 2048), h=((64,), "float16"))
    return builder.module(
        lambda given, h: (
            builder.call(sch.mod["main"], [given], (64, 2048)),
            builder.call(half, [h], (64,), "float16"),
        )
    )


def test_only_the_interface_shows(make: SimpleNamespace, compiled: Compiled) -> None:
    with ElfFile(compiled(busy_module(make), "pear")) as elf:
        shown = {s.name for s in elf.symbols(dynamic=True) if s.defined}
    assert shown == {f"pear_{function}" for function in link.EXPORTS}


def test_header_declares_what_shows(make: SimpleNamespace, compiled: Compiled) -> None:
    text = compiled(busy_module(make), "pear").with_suffix(".h").read_text()
    assert all(f"pear_{function}(" in text for function in link.EXPORTS)


def test_only_libc_and_its_parts_are_asked(make: SimpleNamespace, compiled: Compiled) -> None:
    path = compiled(busy_module(make))
    offered: set[str] = set()
    for name in LIBRARIES:
        found = subprocess.run(["cc", f"-print-file-name={name}"], capture_output=True, check=True)
        library = Path(found.stdout.decode().strip())
        if library.is_absolute():
            with ElfFile(library) as elf:
                offered |= {s.name for s in elf.symbols(dynamic=True) if s.defined}
    with ElfFile(path) as elf:
        asked = {s.name for s in elf.symbols(dynamic=True) if not s.defined}
    assert {"expf", "pthread_create", "memcpy"} <= asked
    assert asked - START_FILES <= offered
    needed = subprocess.run(["readelf", "-dW", path], capture_output=True, check=True).stdout
    wanted = re.findall(r"NEEDED.*\[(.*)\]", needed.decode())
    assert set(wanted) <= set(LIBRARIES)


def executor_object(
    make: SimpleNamespace, target: CpuTarget, folder: Path, flags: list[str]
) -> Path:
    """Compile the executor of a small net alone."""
    mod, _ = make.conv_net()
    plan = make_plan(graph.read(mod), ["x"], ["y"])
    checks = [features.check(target.triple, name) for name in target.required]
    files = emit.source_files() | {
        "model.h": emit.header(plan, "model").encode(),
        "sizes.h": emit.sizes(plan, "model", checks).encode(),
        "plan.h": emit.tables(plan, checks).encode(),
        "kernels.h": (
            emit.kernels([kernel.function for kernel in plan.kernels])
            + emit.peak("model_peak_kernel", 96, 1)
        ).encode(),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    command = ["cc", *link.COMPILE_FLAGS, *flags, "-c", "model.c", "-o", "model.o"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "model.o"


def test_executor_compiles_without_a_warning(
    make: SimpleNamespace, target: CpuTarget, tmp_path: Path
) -> None:
    strict = ["-Wall", "-Wextra", "-Werror", "-Wpedantic", "-Wshadow", "-Wconversion"]
    executor_object(make, target, tmp_path, strict)


def test_executor_is_small(make: SimpleNamespace, target: CpuTarget, tmp_path: Path) -> None:
    path = executor_object(make, target, tmp_path, [])
    with ElfFile(path) as elf:
        text = sum(s.size for s in elf.sections if s.name.startswith(".text"))
    assert 1000 < text < 12_000


@pytest.mark.parametrize(
    ("compiler", "flags"),
    [("cc", ["-std=c99"]), ("cc", ["-std=c11"]), ("g++", ["-x", "c++", "-std=c++11"])],
)
def test_two_headers_live_in_one_file(
    compiler: str,
    flags: list[str],
    make: SimpleNamespace,
    compiled: Compiled,
    tmp_path: Path,
) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    mod, _ = make.conv_net()
    for name in ("one", "two"):
        compiled(mod, name, input_names=('*/ "odd" ??/ \\ \n é',))
    source = tmp_path / "both.c"
    source.write_text(
        '#include "one.h"\n#include "two.h"\n#include "one.h"\n'
        "int f(one_instance *a, two_instance *b, const tvmopt_buffer *x);\n"
        "int f(one_instance *a, two_instance *b, const tvmopt_buffer *x) {\n"
        "    return (int)one_run(a, x, 1, x, 1) + (int)two_run(b, x, 1, x, 1);\n}\n"
    )
    strict = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"]
    done = subprocess.run(
        [compiler, *flags, *strict, source], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


_PROGRAM = """
#include <stdio.h>
#include <stdlib.h>
#include "one.h"
#include "two.h"

int main(void) {
    one_instance *one = one_create(2);
    two_instance *two = two_create(2);
    float *x = aligned_alloc(64, 4096), *y = aligned_alloc(64, 4096);
    for (int i = 0; i < 1024; i++) x[i] = (float)i;
    tvmopt_buffer a = {x, 4096}, b = {y, 4096};
    for (int round = 0; round < 100; round++) {
        if (!one || !two || one_run(one, &a, 1, &b, 1) || two_run(two, &b, 1, &a, 1)) return 1;
        for (int i = 0; i < 1024; i++) x[i] -= 1.0f; /* (x * 2 / 2) + 1, so x is as it was */
    }
    printf("%g %g %g\\n", (double)x[0], (double)x[1023], (double)y[1023]);
    one_destroy(one);
    two_destroy(two);
    return 0;
}
"""


def test_two_models_link_into_one_program(
    make: SimpleNamespace, compiled: Compiled, tmp_path: Path
) -> None:
    """Both have a pool and a kernel of the same name."""
    kernels = {
        "one": make.elementwise(lambda a: a * 2, (64, 16), parallel=True),
        "two": make.elementwise(lambda a: a / 2 + 1, (64, 16), parallel=True),
    }
    for name, func in kernels.items():
        builder = make.Builder(x=(64, 16))

        def body(x: object, b: object = builder, f: object = func) -> object:
            return b.call(f, [x], (64, 16), name="same")

        compiled(builder.module(body), name)
    (tmp_path / "main.c").write_text(_PROGRAM)
    command = ["cc", "-std=c11", "-Wall", "-Werror", "main.c", "-o", "main", "-L."]
    command += ["-l:one.so", "-l:two.so", "-Wl,-rpath,$ORIGIN"]
    subprocess.run(command, cwd=tmp_path, check=True)
    done = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True)
    assert done.stdout == "0 1023 2046\n"


def test_missing_compilers_are_named_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolchainError, match=r"found no cc or gcc or clang; .* the package gcc"):
        link.find_compiler("x86_64-linux-gnu")
    with pytest.raises(
        ToolchainError, match="riscv64-unknown-linux-gnu-gcc or riscv64-linux-gnu-gcc"
    ):
        link.find_compiler("riscv64-unknown-linux-gnu")


def test_a_failing_compiler_is_quoted(
    make: SimpleNamespace,
    target: CpuTarget,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    fake = tmp_path / "cc"
    fake.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo fake 1.0 && exit 0\n'
        "echo note: hello >&2; echo 'model.c:1: error: no stdio.h' >&2; exit 3\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    mod, _ = make.conv_net()
    with pytest.raises(ToolchainError, match=r"it exits 3: model\.c:1: error: no stdio\.h"):
        codegen.build(mod, target, codegen.BuildMeta())


def test_an_unusable_temporary_folder_is_an_artifact_error(
    make: SimpleNamespace, target: CpuTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nonexistent")
    mod, _ = make.conv_net()
    with pytest.raises(ArtifactError, match="cannot build in a temporary folder: No such file"):
        codegen.build(mod, target, codegen.BuildMeta())


@pytest.mark.skipif(
    shutil.which("aarch64-linux-gnu-gcc") is None, reason="aarch64-linux-gnu-gcc is not installed"
)
def test_cross_compiled_for_aarch64(
    make: SimpleNamespace, target: CpuTarget, tmp_path: Path
) -> None:
    """The artefact is Arm code, refuses to load here, and under qemu gives NumPy's class."""
    arm = dataclasses.replace(
        target,
        name="cortex-a76",
        triple="aarch64-linux-gnu",
        cpu="cortex-a76",
        required=("neon", "dotprod"),
        vector_bits=128,
        vector_registers=32,
    )
    mod, reference = make.conv_net()
    path = codegen.build(mod, arm, codegen.BuildMeta()).save(tmp_path / "model.so")
    with ElfFile(path) as elf:
        assert (elf.machine, elf.bits) == ("aarch64", 64)
    qemu, root = shutil.which("qemu-aarch64"), Path("/usr/aarch64-linux-gnu")
    if qemu is None or not root.is_dir():
        pytest.skip("built, but not run: qemu-aarch64 or its system root is not installed")
    example = Path(__file__).parents[2] / "examples" / "c"
    subprocess.run(
        ["make", "-s", "CC=aarch64-linux-gnu-gcc", f"MODEL={path}", f"OUT={tmp_path}"],
        cwd=example,
        check=True,
    )
    x = np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype("float32")
    x.tofile(tmp_path / "x.bin")
    scores = reference(x)
    run = [qemu, "-L", root, tmp_path / "linked", tmp_path / "x.bin"]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert done.stdout == f"class {scores.argmax()}, score {scores.max():.6f}\n"
    # The A53 has no dot product instructions.
    old = subprocess.run(
        [qemu, "-cpu", "cortex-a53", *run[1:]], capture_output=True, text=True, check=False
    )
    assert (old.returncode, old.stderr) == (
        1,
        "the model needs a CPU with dotprod, this one lacks it\n",
    )
