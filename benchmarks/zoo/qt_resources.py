"""Read Qt's binary resource files (``.rcc``), in which some packages keep their pictures.

Source: Qt's ``src/corelib/io/qresource.cpp``, format versions 1 to 3.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MAGIC = b"qres"
_COMPRESSED_ZLIB, _DIRECTORY, _COMPRESSED_ZSTD = 1, 2, 4


@dataclass(frozen=True, kw_only=True, slots=True)
class _Resources:
    data: bytes
    tree: int
    contents: int
    names: int
    node_bytes: int  # 8 more from version 2 on: the time of the last change

    def name(self, node: int) -> str:
        (offset,) = struct.unpack_from(">I", self.data, self.tree + node * self.node_bytes)
        (length,) = struct.unpack_from(">H", self.data, self.names + offset)
        start = self.names + offset + 6  # behind the length and a hash
        return self.data[start : start + 2 * length].decode("utf-16-be")

    def walk(self, node: int, folder: str) -> Iterator[tuple[str, bytes]]:
        at = self.tree + node * self.node_bytes
        (flags,) = struct.unpack_from(">H", self.data, at + 4)
        path = f"{folder}/{self.name(node)}" if node else ""  # the root has no name
        if flags & _DIRECTORY:
            count, first = struct.unpack_from(">2I", self.data, at + 6)
            for child in range(first, first + count):
                yield from self.walk(child, path)
        elif not flags & _COMPRESSED_ZSTD:  # the standard library cannot read it; pictures are raw
            (offset,) = struct.unpack_from(">I", self.data, at + 10)
            yield path, self.content(offset, compressed=bool(flags & _COMPRESSED_ZLIB))

    def content(self, offset: int, *, compressed: bool) -> bytes:
        (size,) = struct.unpack_from(">I", self.data, self.contents + offset)
        start = self.contents + offset + 4
        raw = self.data[start : start + size]
        return zlib.decompress(raw[4:]) if compressed else raw  # behind the size it will have


def read_resources(path: Path) -> dict[str, bytes]:
    """Return the files of a resource file by their path in it, without those under zstd.

    Raises:
        ValueError: It is no such file, or of another version.
    """
    data = path.read_bytes()
    version, tree, contents, names = struct.unpack_from(">4I", data, 4)
    if data[:4] != _MAGIC or version not in {1, 2, 3}:
        raise ValueError(f"{path.name} must be a Qt resource file of version 1 to 3, it is not")
    size = 14 if version == 1 else 22
    found = _Resources(data=data, tree=tree, contents=contents, names=names, node_bytes=size)
    return dict(found.walk(0, ""))
