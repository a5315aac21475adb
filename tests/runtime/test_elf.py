"""Manifests are read from any file, or refused; a damaged file is never more than an error."""

from __future__ import annotations

import json
import platform
import struct
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvmopt import runtime
from tvmopt.errors import ArtifactError
from tvmopt.runtime import manifest as manifests
from tvmopt.runtime.elf import ElfFile


def make_elf(
    bits: int, order: str, machine: int, section: str, data: bytes, *, kind: int = 1
) -> bytes:
    """Return a minimal ELF file with one section besides the table of names."""
    wide = bits == 64
    header = 64 if wide else 52
    names = b"\0.shstrtab\0" + section.encode() + b"\0"
    entry = "IIQQQQIIQQ" if wide else "IIIIIIIIII"
    table = header + len(data) + len(names)
    ident = b"\x7fELF" + bytes([bits // 32, 1 if order == "<" else 2, 1]) + bytes(9)
    fields = (3, machine, 1, 0, 0, table, 0, header, 0, 0, struct.calcsize("=" + entry), 3, 1)
    head = struct.pack(order + ("HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH"), *fields)
    rows = [
        (0,) * 10,
        (1, 3, 0, 0, header + len(data), len(names), 0, 0, 1, 0),
        (11, kind, 0, 0, header, len(data), 1, 0, 1, 0),
    ]
    packed = b"".join(struct.pack(order + entry, *row) for row in rows)
    return ident + head + data + names + packed


MANIFEST = json.dumps({"format_version": 1, "name": "m"}).encode() + b"\0"


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("code", "machine"), [(62, "x86_64"), (40, "arm"), (183, "aarch64")])
def test_manifests_of_any_machine_are_read(
    bits: int, order: str, code: int, machine: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.so"
    path.write_bytes(make_elf(bits, order, code, ".tvmopt.manifest", MANIFEST))
    assert runtime.read_manifest(path) == {"format_version": 1, "name": "m"}
    with ElfFile(path) as elf:
        assert (elf.machine, elf.bits, elf.order) == (machine, bits, order)


def test_another_machines_artefact_is_refused_by_name(tmp_path: Path) -> None:
    here = platform.machine()
    code, there = (183, "aarch64") if here != "aarch64" else (62, "x86_64")
    path = tmp_path / "model.so"
    path.write_bytes(make_elf(64, "<", code, ".tvmopt.manifest", MANIFEST))
    with pytest.raises(ArtifactError, match=f"is built for {there}, this machine is {here}"):
        runtime.open(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "must be an ELF file"),
        (b"\x7fEL", "must be an ELF file"),
        (b"PK\x03\x04" + bytes(100), "must be an ELF file"),
        (b"\x7fELF" + bytes(60), "has a damaged ELF header"),
        (b"\x7fELF\x02\x01" + bytes(20), "is cut short"),
        (make_elf(64, "<", 62, ".text", MANIFEST), "it has no section .tvmopt.manifest"),
        (make_elf(64, "<", 62, ".tvmopt.manifest", b"{"), "has a damaged manifest"),
        (make_elf(64, "<", 62, ".tvmopt.manifest", b"[1]"), "has a damaged manifest"),
        (make_elf(64, "<", 62, ".tvmopt.manifest", b"{}"), "has a damaged manifest"),
        (make_elf(64, "<", 62, ".tvmopt.manifest", b"\xff\xfe{"), "has a damaged manifest"),
        (
            make_elf(64, "<", 62, ".tvmopt.manifest", b'{"format_version": 9}'),
            "format version must be 1, got 9",
        ),
    ],
)
def test_other_files_are_refused(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.so"
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=message):
        runtime.read_manifest(path)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"none\.so: cannot be read: No such file"):
        runtime.open(tmp_path / "none.so")
    with pytest.raises(ArtifactError, match="cannot be read: Is a directory"):
        runtime.open(tmp_path)


def test_a_newer_glibc_is_asked_for(tmp_path: Path) -> None:
    codes = {"x86_64": 62, "aarch64": 183, "arm": 40}
    text = json.dumps({"format_version": 1, "glibc": "9.99"}).encode()
    path = tmp_path / "model.so"
    path.write_bytes(make_elf(64, "<", codes.get(platform.machine(), 62), manifests.SECTION, text))
    with pytest.raises(ArtifactError, match=r"needs glibc 9\.99, this system has \d"):
        runtime.open(path)


def test_truncated_artefacts_are_refused_at_any_length(affine: Path, tmp_path: Path) -> None:
    data, path = affine.read_bytes(), tmp_path / "short.so"
    for length in [*range(0, 200, 7), *range(200, len(data) - 1, 997), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(ArtifactError):
            runtime.open(path)


@settings(derandomize=True, max_examples=500, deadline=None)
@given(st.data())
def test_damaged_tables_are_an_error_or_no_matter(data: st.DataObject) -> None:
    bits = data.draw(st.sampled_from([32, 64]))
    kind = data.draw(st.sampled_from([1, 2, 11, 0x6FFFFFFE]))
    contents = data.draw(st.binary(max_size=100))
    elf = bytearray(make_elf(bits, "<", 62, ".x", contents, kind=kind))
    for _ in range(data.draw(st.integers(0, 6))):
        elf[data.draw(st.integers(4, len(elf) - 1))] = data.draw(st.integers(0, 255))
    with tempfile.NamedTemporaryFile() as temporary:
        temporary.write(elf)
        temporary.flush()
        for question in (ElfFile.symbols, ElfFile.needed_versions, _all_data):
            try:
                with ElfFile(Path(temporary.name)) as file:
                    question(file)
            except ArtifactError as err:
                assert str(err).startswith(temporary.name)  # noqa: PT017 - either is right


def _all_data(file: ElfFile) -> list[bytes]:
    return [file.data(section) for section in file.sections]


def test_symbols_agree_with_nm(affine: Path) -> None:
    found = subprocess.run(
        ["nm", "-D", "--defined-only", affine], capture_output=True, text=True, check=True
    )
    with ElfFile(affine) as elf:
        defined = {s.name for s in elf.symbols(dynamic=True) if s.defined}
    assert defined == {line.split()[-1] for line in found.stdout.splitlines()}
