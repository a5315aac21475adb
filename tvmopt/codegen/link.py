"""Call the target's C compiler."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tvmopt.codegen.features import architecture
from tvmopt.errors import ArtifactError, ToolchainError
from tvmopt.runtime.elf import ElfFile

# Position independent and hidden, for a shared object; no -g, so that no path gets in.
COMPILE_FLAGS = ("-std=c11", "-O2", "-g0", "-fPIC", "-fvisibility=hidden", "-fno-ident")
DRAFT_FLAGS = ("-O0",)  # behind them: a quarter of the time to compile, and no kernel is slower
_LINK_FLAGS = (
    "-shared",
    "-Wl,--version-script=exports.map",  # all but the public interface becomes local
    "-Wl,--build-id=none",
    "-Wl,--as-needed",
    "-Wl,--gc-sections",
    "-Wl,--no-undefined",  # what kernels ask for and nobody has is found now, not on the target
    "-Wl,--strip-debug",
    "-Wl,--discard-all",
    "-Wl,-z,noexecstack",
    "-Wl,-z,relro",
    "-Wl,-z,now",
)
EXPORTS = (
    "create",
    "destroy",
    "input_count",
    "output_count",
    "input",
    "output",
    "arena_bytes",
    "step_count",
    "run",
    "last_error",
    "on_step",
    "profile",
    "peak_gflops",
    "manifest",
)


def _normal(triple: str) -> str:
    """Return a triple without its vendor, as distributions name their cross compilers."""
    parts = triple.split("-")
    return "-".join(parts if len(parts) < 4 else [parts[0], *parts[2:]])


def is_native(triple: str) -> bool:
    """Say whether code for ``triple`` runs on the machine we are on."""
    return triple.split("-", maxsplit=1)[0] == platform.machine()


def find_compiler(triple: str) -> str:
    """Return the path of a C compiler for ``triple``.

    Raises:
        ToolchainError: There is none on PATH; the message says what to install.
    """
    if is_native(triple):
        names, package = ["cc", "gcc", "clang"], "gcc"
    else:
        names = list(dict.fromkeys([f"{triple}-gcc", f"{_normal(triple)}-gcc"]))
        package = f"gcc-{_normal(triple).replace('_', '-')}"
    for name in names:
        if (path := shutil.which(name)) is not None:
            return path
    raise ToolchainError(
        f"a C compiler for {triple!r} must be on PATH, found no {' or '.join(names)}; "
        f"install one, such as the package {package}"
    )


def _run(command: Sequence[str], folder: Path) -> str:
    # The C locale keeps messages, which we quote, and sort orders the same everywhere.
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            # What the compiler leaves when it is killed goes with the folder.
            env=os.environ | {"LC_ALL": "C", "TMPDIR": str(folder)},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as err:
        raise ToolchainError(f"cannot run {command[0]}: {err.strerror}") from err
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        first = next(
            (line for line in lines if "error" in line), lines[0] if lines else "no output"
        )
        raise ToolchainError(f"{command[0]} must succeed, it exits {done.returncode}: {first}")
    return done.stdout


def compiler_version(compiler: str) -> str:
    """Return the first line of what the compiler says of itself."""
    return _run([compiler, "--version"], Path("/")).splitlines()[0]


def compile_file(compiler: str, folder: Path, source: str, flags: Sequence[str] = ()) -> str:
    """Compile one file in ``folder`` and return its object's name; no path enters the object."""
    target = f"{Path(source).stem}.o"
    _run([compiler, *COMPILE_FLAGS, *flags, "-c", source, "-o", target], folder)
    return target


def link(compiler: str, folder: Path, objects: Sequence[str], name: str, output: str) -> Path:
    """Link ``objects`` into a shared object that shows only the functions of model ``name``."""
    shown = "".join(f" {name}_{function};" for function in EXPORTS)
    write(folder / "exports.map", f"{{ global:{shown} local: *; }};\n".encode())
    _run([compiler, *_LINK_FLAGS, "-o", output, *objects, "-lm", "-lpthread"], folder)
    return folder / output


def least_glibc(path: Path) -> str | None:
    """Return the oldest glibc that has all that a shared object asks for, such as "2.34"."""
    with ElfFile(path) as elf:
        versions = [
            tuple(map(int, name.removeprefix("GLIBC_").split(".")))
            for name in elf.needed_versions()
            if name.startswith("GLIBC_") and name[6:].replace(".", "").isdigit()
        ]
    return ".".join(map(str, max(versions))) if versions else None


def write(path: Path, data: bytes) -> None:
    """Write a file of the build.

    Raises:
        ArtifactError: The temporary folder is full or cannot be written.
    """
    try:
        path.write_bytes(data)
    except OSError as err:
        raise ArtifactError(f"{path.parent}: cannot build there: {err.strerror}") from err


def baseline_flags(triple: str) -> tuple[str, ...]:
    """Return flags that keep the executor to what every CPU of the architecture has."""
    return ("-march=x86-64",) if architecture(triple) == "x86" and "64" in triple else ()
