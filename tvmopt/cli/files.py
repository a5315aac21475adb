"""Check where results will go before the work, and write them whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING

from tvmopt.errors import ArtifactError

if TYPE_CHECKING:
    import numpy as np


def check_writable(path: Path) -> None:
    """Refuse an output path that cannot be written, before time is spent on what goes there.

    Raises:
        ArtifactError: Its folder does not exist or cannot be written, or it is a folder itself.
    """
    folder = path.parent
    if not folder.is_dir():
        raise ArtifactError(f"{path}: must lie in a folder that exists, {str(folder)!r} does not")
    if path.is_dir() or not path.name:
        raise ArtifactError(f"{path}: must be a file to write, it is a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ArtifactError(f"{path}: must lie in a folder that can be written, {folder} cannot")
    try:  # os.access knows nothing of read-only file systems in some containers
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as err:
        raise ArtifactError(f"{path}: cannot be written: {err.strerror}") from err


def save_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write ``arrays`` to ``path``, whole or not at all.

    Raises:
        ArtifactError: The disk is full, or the file cannot be written.
    """
    _write(path, lambda file: _savez(file, arrays))


def save_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path``, whole or not at all.

    Raises:
        ArtifactError: The disk is full, or the file cannot be written.
    """
    _write(path, lambda file: file.write(text.encode()))


def _savez(file: IO[bytes], arrays: Mapping[str, np.ndarray]) -> None:
    """Do what numpy.savez does, which cannot take an array named ``file``."""
    import zipfile

    from numpy.lib import format as npy

    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                npy.write_array(member, array, allow_pickle=False)


def _write(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            prefix=f".{path.name}.", dir=path.parent, delete=False
        ) as file:
            temporary = Path(file.name)
            write(file)
        umask = os.umask(0o022)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except OSError as err:
        raise ArtifactError(f"{path}: cannot be written: {err.strerror}") from err
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
