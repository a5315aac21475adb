"""Read ``catalogue.toml``: which models there are, where they lie, and how they are run."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

CATALOGUE = Path(__file__).resolve().parent / "catalogue.toml"

Registry = Literal["pypi", "npm", "debian"]
# "accuracy": only the accuracy benchmark wants it, which takes the time to train it.
Group = Literal["main", "later", "accuracy"]


class UnknownModelError(Exception):
    """The catalogue has no model, group or data set of that name."""


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
class Selection:
    """Many files of one package.

    Attributes:
        package: Where they lie.
        include: Patterns of their paths there; ``*`` crosses folders.
        exclude: Patterns of paths that are left out again.
        sha256: Of the list of names and contents, see ``registries.digest``.
    """

    package: Package
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    sha256: str

    def holds(self, path: str) -> bool:
        """Whether a path of the package is selected."""
        wanted = any(fnmatchcase(path, pattern) for pattern in self.include)
        return wanted and not any(fnmatchcase(path, pattern) for pattern in self.exclude)


@dataclass(frozen=True, kw_only=True, slots=True)
class Exporter:
    """How a family of models becomes ONNX, or of files arrays.

    Attributes:
        sources: File names beside this one; the first is the script, the others it imports.
        requirements: What its virtual environment holds, as pip spells it.
        environment: Of the virtual environment; exporters of the same requirements share one.
    """

    sources: tuple[str, ...]
    requirements: tuple[str, ...]
    environment: str


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
    group: Group
    weights: Literal["trained", "random"]
    files: tuple[Member, ...]
    exporter: tuple[str, Exporter] | None
    shapes: tuple[dict[str, tuple[int, ...]], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """A row of the catalogue: real data, made into arrays.

    Attributes:
        id: Also the name of the file in the cache, without ``.npz``.
        contents: What it holds, in a few words.
        exporter: What makes the arrays of the files, and its name.
        selections: The files, one selection for each package.
    """

    id: str
    contents: str
    licence: str
    exporter: tuple[str, Exporter]
    selections: tuple[Selection, ...]


def load_catalogue(path: Path = CATALOGUE) -> dict[str, Model]:
    """Return the models of the catalogue by id, in its order."""
    data = _read(path)
    packages, exporters = _packages(data), _exporters(data)
    return {
        name: _parse_model(name, row, packages, exporters) for name, row in data["models"].items()
    }


def load_datasets(path: Path = CATALOGUE) -> dict[str, Dataset]:
    """Return the data sets of the catalogue by id, in its order."""
    data = _read(path)
    packages, exporters = _packages(data), _exporters(data)
    return {
        name: Dataset(
            id=name,
            contents=row["contents"],
            licence=row["licence"],
            exporter=(row["export"], exporters[row["export"]]),
            selections=tuple(_parse_selection(entry, packages) for entry in row["files"]),
        )
        for name, row in data["datasets"].items()
    }


def _read(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _packages(data: dict[str, Any]) -> dict[str, Package]:
    return {name: Package(name=name, **row) for name, row in data["packages"].items()}


def _exporters(data: dict[str, Any]) -> dict[str, Exporter]:
    environments: dict[tuple[str, ...], str] = {}
    exporters = {}
    for name, row in data["exporters"].items():
        requirements = tuple(row["requirements"])
        exporters[name] = Exporter(
            sources=tuple(row["sources"]),
            requirements=requirements,
            environment=environments.setdefault(requirements, name),
        )
    return exporters


def _parse_selection(row: dict[str, Any], packages: dict[str, Package]) -> Selection:
    return Selection(
        package=packages[row["package"]],
        include=tuple(row["include"]),
        exclude=tuple(row.get("exclude", ())),
        sha256=row["sha256"],
    )


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
