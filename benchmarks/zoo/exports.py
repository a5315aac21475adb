"""Make ONNX files of weights, by scripts that run in virtual environments of their own."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from benchmarks.zoo.cache import CACHE, HERE, run, sha256, write
from benchmarks.zoo.catalogue import Dataset, Exporter, Model
from benchmarks.zoo.registries import unpack, unpack_all


def export(model: Model, out: Path) -> None:
    """Make the ONNX file of a model that has an exporter, and a stamp beside it.

    Raises:
        FetchError: The weights cannot be had, or the export fails.
    """
    assert model.exporter is not None
    files = [str(unpack(member)) for member in model.files]
    _make(model.id, model.exporter[1], files, export_key(model), out)


def export_data(dataset: Dataset, out: Path) -> None:
    """Make the arrays of a data set, and a stamp beside them; raises as ``export`` does.

    The script gets, in place of files, one folder for each package.
    """
    folders = [str(unpack_all(selection)) for selection in dataset.selections]
    _make(dataset.id, dataset.exporter[1], folders, data_key(dataset), out)


def export_key(model: Model) -> str:
    """Digest all that an exported file depends on: weights, scripts and requirements."""
    assert model.exporter is not None
    return _key([member.sha256 for member in model.files], model.exporter[1])


def data_key(dataset: Dataset) -> str:
    """Digest all that the arrays of a data set depend on."""
    return _key([selection.sha256 for selection in dataset.selections], dataset.exporter[1])


def is_made(out: Path, key: str) -> bool:
    """Whether a made file is there, whole, and was made of what ``key`` says."""
    stamp = out.with_suffix(".json")
    if not (out.exists() and stamp.exists()):
        return False
    expected = {"key": key, "sha256": sha256(out.read_bytes())}
    return bool(json.loads(stamp.read_text(encoding="utf-8")) == expected)


def _make(subject: str, exporter: Exporter, arguments: list[str], key: str, out: Path) -> None:
    python = _make_venv(exporter)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        made = Path(folder, out.name)
        script = HERE / exporter.sources[0]
        run(subject, [str(python), str(script), subject, str(made), *arguments])
        stamp = {"key": key, "sha256": sha256(made.read_bytes())}
        made.replace(out)
        write(out.with_suffix(".json"), json.dumps(stamp).encode())


def _key(digests: list[str], exporter: Exporter) -> str:
    sources = [sha256((HERE / source).read_bytes()) for source in exporter.sources]
    return sha256("\n".join([*digests, *sources, *exporter.requirements]).encode())


def _make_venv(exporter: Exporter) -> Path:
    name = exporter.environment
    folder = CACHE / f"venv-{name}"
    python, done = folder / "bin" / "python", folder / "requirements.txt"
    text = "\n".join(exporter.requirements)
    if not (done.exists() and done.read_text(encoding="utf-8") == text):
        run(f"venv-{name}", [sys.executable, "-m", "venv", "--clear", str(folder)])
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        # Most of what is installed is never imported: compiling all of it takes a minute.
        run(f"venv-{name}", [*pip, "--no-compile", *exporter.requirements])
        write(done, text.encode())  # last: its presence says that the installation is complete
    return python
