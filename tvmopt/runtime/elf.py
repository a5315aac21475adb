"""Read an ELF file's sections and symbols without loading any of its code.

Source: Tool Interface Standard, "Executable and Linking Format Specification", version 1.2, 1995,
and its 64-bit extension (System V gABI, chapters 4 and 5). 32 and 64 bit, both byte orders, any
machine; only what an artefact's manifest and its checks need.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tvmopt.errors import ArtifactError

MACHINES = {3: "x86", 8: "mips", 21: "ppc64", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv"}

_SYMBOL_TABLE, _DYNAMIC_SYMBOLS = 2, 11
_NO_BITS = 8
_VERSION_NEED = 0x6FFFFFFE


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One entry of the section table; sizes and offsets in bytes."""

    name: str
    kind: int
    offset: int
    size: int
    link: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Symbol:
    """One entry of a symbol table.

    Attributes:
        name: As the linker sees it.
        defined: Whether this file has it.
        is_global: Whether other files may refer to it (global or weak).
        weak: Whether another definition may replace it, or none be needed.
    """

    name: str
    defined: bool
    is_global: bool
    weak: bool


class ElfFile:
    """An open ELF file; a context manager."""

    def __init__(self, path: Path) -> None:
        """Read the header and the section table of ``path``.

        Raises:
            ArtifactError: The file cannot be read, is no ELF file, or is cut short.
        """
        self.path = path
        try:
            self._file: BinaryIO = path.open("rb")
        except OSError as err:
            raise ArtifactError(f"{path}: cannot be read: {err.strerror}") from err
        try:
            self._read_tables()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> ElfFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _read_tables(self) -> None:
        ident = self._file.read(16)
        if ident[:4] != b"\x7fELF" or len(ident) < 16:
            raise ArtifactError(f"{self.path}: must be an ELF file such as tvmopt compile writes")
        if ident[4] not in {1, 2} or ident[5] not in {1, 2}:
            raise ArtifactError(f"{self.path}: has a damaged ELF header")
        self.bits = 32 * ident[4]
        self.order = "<" if ident[5] == 1 else ">"
        fields = self._unpack("HHIQQQIHHHHHH" if self.bits == 64 else "HHIIIIIHHHHHH", 16)
        self.machine = MACHINES.get(fields[1], f"ELF machine {fields[1]}")
        table, entry_size, count, names = fields[5], fields[10], fields[11], fields[12]
        layout = "IIQQQQIIQQ" if self.bits == 64 else "IIIIIIIIII"
        raw = [self._unpack(layout, table + i * entry_size) for i in range(count)]
        if not names < len(raw):
            raise ArtifactError(f"{self.path}: has no section table; was it stripped of it?")
        strings = self._bytes(raw[names][4], raw[names][5])
        self.sections = tuple(
            Section(name=self._string(strings, s[0]), kind=s[1], offset=s[4], size=s[5], link=s[6])
            for s in raw
        )

    def _bytes(self, offset: int, size: int) -> bytes:
        try:
            self._file.seek(offset)
            data = self._file.read(size)
        except (OSError, OverflowError, ValueError, MemoryError) as err:
            raise ArtifactError(f"{self.path}: has a damaged section table") from err
        if len(data) != size:
            raise ArtifactError(f"{self.path}: is cut short; copy or compile it again")
        return data

    def _unpack(self, layout: str, offset: int) -> tuple[int, ...]:
        return struct.unpack(
            self.order + layout, self._bytes(offset, struct.calcsize("=" + layout))
        )

    def _string(self, table: bytes, offset: int) -> str:
        end = table.find(b"\0", offset)
        if not 0 <= offset <= end:
            raise ArtifactError(f"{self.path}: has a damaged string table")
        return table[offset:end].decode("utf-8", "replace")

    def section(self, name: str) -> Section | None:
        """Return the section called ``name``, if there is one."""
        return next((section for section in self.sections if section.name == name), None)

    def data(self, section: Section) -> bytes:
        """Return a section's contents."""
        return b"" if section.kind == _NO_BITS else self._bytes(section.offset, section.size)

    def symbols(self, *, dynamic: bool = False) -> tuple[Symbol, ...]:
        """Return the symbols that this file defines or asks for, or only those of the loader."""
        table = self._of_kind(_DYNAMIC_SYMBOLS if dynamic else _SYMBOL_TABLE)
        if table is None:
            return ()
        data, strings = self.data(table), self._linked(table)
        layout = struct.Struct(self.order + ("IBBHQQ" if self.bits == 64 else "IIIBBH"))
        info, index = (1, 3) if self.bits == 64 else (3, 5)
        entries = layout.iter_unpack(data[: len(data) // layout.size * layout.size])
        return tuple(
            Symbol(
                name=self._string(strings, entry[0]),
                defined=entry[index] != 0,
                is_global=entry[info] >> 4 in {1, 2},
                weak=entry[info] >> 4 == 2,
            )
            for entry in entries
            if entry[0]
        )

    def needed_versions(self) -> tuple[str, ...]:
        """Return the symbol versions that the file asks of its libraries, such as GLIBC_2.34."""
        section = self._of_kind(_VERSION_NEED)
        if section is None:
            return ()
        data, strings = self.data(section), self._linked(section)
        try:
            offsets = set(self._version_names(data))
        except struct.error as err:
            raise ArtifactError(f"{self.path}: has a damaged version table") from err
        return tuple(sorted(self._string(strings, offset) for offset in offsets))

    def _version_names(self, data: bytes) -> Iterator[int]:
        """Yield where the names of a version table's entries begin; offsets only grow."""
        library, following = 0, 1
        while following:
            _, count, _, first, following = struct.unpack_from(self.order + "HHIII", data, library)
            entry = library + first
            for _ in range(count):
                _, _, _, name, step = struct.unpack_from(self.order + "IHHII", data, entry)
                yield name
                entry += step
            library += following

    def _of_kind(self, kind: int) -> Section | None:
        return next((section for section in self.sections if section.kind == kind), None)

    def _linked(self, section: Section) -> bytes:
        """Return the strings that a section's entries name themselves by."""
        if section.link >= len(self.sections):
            raise ArtifactError(f"{self.path}: has a damaged section table")
        return self.data(self.sections[section.link])
