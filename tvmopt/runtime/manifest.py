"""Read an artefact's description of itself."""

from __future__ import annotations

import json
import os
import platform
import re
from pathlib import Path
from typing import Any

from tvmopt.errors import ArtifactError
from tvmopt.runtime.elf import ElfFile

SECTION = ".tvmopt.manifest"
FORMAT_VERSION = 1


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the manifest of an artefact for any machine, without loading its code.

    Raises:
        ArtifactError: The file is no artefact, is damaged, or is of a newer format.
    """
    with ElfFile(Path(path)) as elf:
        return _manifest(elf)


def _manifest(elf: ElfFile) -> dict[str, Any]:
    section = elf.section(SECTION)
    if section is None:
        raise ArtifactError(
            f"{elf.path}: must be an artefact of tvmopt compile; it has no section {SECTION}"
        )
    try:
        manifest = json.loads(elf.data(section).rstrip(b"\0"))
        version = manifest["format_version"]
    except (ValueError, KeyError, TypeError) as err:
        raise ArtifactError(f"{elf.path}: has a damaged manifest") from err
    if version != FORMAT_VERSION:
        raise ArtifactError(
            f"{elf.path}: format version must be {FORMAT_VERSION}, got {version!r}; "
            "open it with the tvmopt that compiled it"
        )
    return manifest


def read_for_this_machine(path: Path) -> dict[str, Any]:
    """Return the manifest of an artefact that this machine's loader can take.

    Raises:
        ArtifactError: As ``read``, or the artefact is for another machine or a newer glibc.
    """
    with ElfFile(path) as elf:
        machine = platform.machine()
        if elf.machine != machine:
            raise ArtifactError(
                f"{path}: is built for {elf.machine}, this machine is {machine}; "
                "compile it for a target of this machine"
            )
        manifest = _manifest(elf)
    _check_glibc(path, manifest.get("glibc"))
    return manifest


def _check_glibc(path: Path, least: str | None) -> None:
    name, version = platform.libc_ver()
    if least is None or name != "glibc" or not re.fullmatch(r"\d+(\.\d+)+", version):
        return  # the loader has the last word
    if [int(part) for part in version.split(".")] < [int(part) for part in least.split(".")]:
        raise ArtifactError(f"{path}: needs glibc {least}, this system has {version}")
