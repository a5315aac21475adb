"""A finished artefact, and how it gets to disk whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tvmopt.errors import ArtifactError


@dataclass(frozen=True, kw_only=True, slots=True)
class Artifact:
    """A compiled model.

    Attributes:
        shared_object: The contents of model.so.
        header: The text of model.h, its C interface.
        manifest: What the artefact says of itself.
    """

    shared_object: bytes = field(repr=False)
    header: str = field(repr=False)
    manifest: Mapping[str, Any] = field(repr=False)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the shared object to ``path`` and the header beside it, with the suffix ".h".

        Both files appear whole or stay as they were, whatever happens on the way.

        Returns:
            The path of the shared object.

        Raises:
            ArtifactError: The folder does not exist, cannot be written, or the disk is full.
        """
        path = Path(path)
        header = path.with_suffix(".h") if path.name else path
        if header == path or path.is_dir() or header.is_dir():
            raise ArtifactError(f"{path}: must be a file name such as model.so")
        with contextlib.ExitStack() as undo:
            try:
                # All is written before anything is renamed: a full disk changes neither file.
                new_object = _write_beside(path, self.shared_object, 0o777, undo)
                new_header = _write_beside(header, self.header.encode(), 0o666, undo)
                new_header.replace(header)
                new_object.replace(path)
            except OSError as err:
                raise ArtifactError(f"{path}: cannot be written: {err.strerror}") from err
        return path


def _write_beside(path: Path, data: bytes, mode: int, undo: contextlib.ExitStack) -> Path:
    """Write ``data`` to a new file in the folder of ``path`` that goes when ``undo`` closes."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    undo.callback(_remove, temporary)  # before it exists: Ctrl-C comes any time
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    return temporary


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # mostly it is gone, renamed; else the first error counts
        path.unlink()
