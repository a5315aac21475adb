"""Collect constants into one blob, each content once."""

from __future__ import annotations

import hashlib

import numpy as np

from tvmopt.codegen.plan import ALIGNMENT


class ConstantPool:
    """A growing blob of constants; equal bytes share an offset."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._size = 0
        self._offsets: dict[bytes, int] = {}

    def add(self, value: np.ndarray) -> int:
        """Return the offset of ``value``, bytes, a multiple of ``ALIGNMENT``."""
        data = np.ascontiguousarray(value).tobytes()
        key = hashlib.sha256(data).digest()
        if key not in self._offsets:
            self._offsets[key] = self._size
            padding = -len(data) % ALIGNMENT
            self._chunks += [data, bytes(padding)]
            self._size += len(data) + padding
        return self._offsets[key]

    def blob(self) -> bytes:
        """Return the weights as one string of bytes."""
        return b"".join(self._chunks)
