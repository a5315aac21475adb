"""The cache: where it is, and how it is written by several processes at once."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = HERE / ".cache"
MODELS = CACHE / "models"
DATA = CACHE / "data"


class FetchError(Exception):
    """A model or data cannot be had here; the message is one line and names it or the package."""


def run(subject: str, command: Sequence[str], cwd: str | None = None) -> None:
    """Run a client or a script to its end.

    Raises:
        FetchError: It is not installed or it fails; its own reason, for ``subject``.
    """
    if shutil.which(command[0]) is None:
        raise FetchError(f"{subject}: {command[0]} is not installed")
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.lower().startswith(("error", "e:", "npm err"))]
        reason = "; ".join(errors[:2] or lines[-1:]) or "no message"
        raise FetchError(f"{subject}: {Path(command[0]).name} failed: {reason}")


def write(path: Path, data: bytes) -> None:
    """Write a file so that an interrupted run leaves either all of it or nothing."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def sha256(data: bytes) -> str:
    """Return the digest in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def lock() -> Iterator[None]:
    """Keep other processes from filling the cache at the same time; it must exist."""
    with (CACHE / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
