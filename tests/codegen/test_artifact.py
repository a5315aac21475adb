"""Saving writes both files whole, or neither."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tvmopt.codegen import Artifact
from tvmopt.codegen import artifact as artifacts
from tvmopt.errors import ArtifactError


@pytest.fixture
def artifact() -> Artifact:
    return Artifact(shared_object=b"\x7fELF" + bytes(20_000), header="/* h */\n", manifest={})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_both_files_appear_under_the_umask(artifact: Artifact, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        path = artifact.save(tmp_path / "net.v2.so")
    finally:
        os.umask(before)
    assert path == tmp_path / "net.v2.so"
    header = tmp_path / "net.v2.h"
    assert contents(tmp_path) == {path.name: artifact.shared_object, header.name: b"/* h */\n"}
    assert (path.stat().st_mode & 0o777, header.stat().st_mode & 0o777) == (0o750, 0o640)


def test_an_open_artefact_is_replaced_not_overwritten(artifact: Artifact, tmp_path: Path) -> None:
    path = artifact.save(tmp_path / "model.so")
    with path.open("rb") as old:
        Artifact(shared_object=b"new", header="", manifest={}).save(path)
        assert old.read() == artifact.shared_object
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing/model.so", "model.so: cannot be written: No such file or directory"),
        ("file/model.so", "model.so: cannot be written: Not a directory"),
        ("folder", "folder: must be a file name such as model.so"),
        ("model.h", "model.h: must be a file name such as model.so"),
        ("", "must be a file name such as model.so"),
    ],
)
def test_impossible_places_are_refused(
    name: str, message: str, artifact: Artifact, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ArtifactError, match=message):
        artifact.save(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_an_unwritable_folder_is_refused(artifact: Artifact) -> None:
    # Nobody may create files in /proc, not even root, who may run this test.
    with pytest.raises(ArtifactError, match=r"^/proc/model.so: cannot be written: "):
        artifact.save("/proc/model.so")


_FULL = """
import resource, sys
from tvmopt.codegen import Artifact
from tvmopt.errors import ArtifactError
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
try:
    Artifact(shared_object=bytes(20_000), header="new", manifest={}).save(sys.argv[1])
except ArtifactError as err:
    print(err)
"""


def test_running_out_of_space_leaves_the_old_files(artifact: Artifact, tmp_path: Path) -> None:
    """A limit on file size fails in the middle of the data, as a full disk does."""
    path = artifact.save(tmp_path / "model.so")
    before = contents(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", _FULL, path], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{path}: cannot be written: File too large\n"
    assert contents(tmp_path) == before


def test_ctrl_c_leaves_the_old_files(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = artifact.save(tmp_path / "model.so")
    before = contents(tmp_path)
    write = artifacts._write_beside

    def interrupted(*args: object) -> Path:
        write(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(artifacts, "_write_beside", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Artifact(shared_object=b"new", header="new", manifest={}).save(path)
    assert contents(tmp_path) == before
