"""Make ONNX files of weights, by scripts that run in virtual environments of their own."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from benchmarks.zoo.cache import CACHE, HERE, run, sha256, write
from benchmarks.zoo.catalogue import Exporter, Model
from benchmarks.zoo.registries import unpack


def export(model: Model, out: Path) -> None:
    """Make the ONNX file of a model that has an exporter, and a stamp beside it.

    Raises:
        FetchError: The weights cannot be had, or the export fails.
    """
    assert model.exporter is not None
    name, exporter = model.exporter
    files = [str(unpack(member)) for member in model.files]
    python = _make_venv(name, exporter)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        made = Path(folder, out.name)
        script = HERE / exporter.sources[0]
        run(model.id, [str(python), str(script), model.id, str(made), *files])
        stamp = {"key": export_key(model), "sha256": sha256(made.read_bytes())}
        made.replace(out)
        write(out.with_suffix(".json"), json.dumps(stamp).encode())


def export_key(model: Model) -> str:
    """Digest all that an exported file depends on: weights, scripts and requirements."""
    assert model.exporter is not None
    exporter = model.exporter[1]
    parts = [
        *(member.sha256 for member in model.files),
        *(sha256((HERE / source).read_bytes()) for source in exporter.sources),
        *exporter.requirements,
    ]
    return sha256("\n".join(parts).encode())


def _make_venv(name: str, exporter: Exporter) -> Path:
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
