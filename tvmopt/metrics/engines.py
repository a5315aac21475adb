"""Which engine runs which file: tvmopt's own artefacts, and the rivals they are compared with."""

from __future__ import annotations

import difflib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from tvmopt.errors import ArtifactError, ModelError, OptionError

# Engine to the package that brings it; tvmopt's own needs none.
PACKAGES = {"tvmopt": "", "onnxruntime": "onnxruntime", "openvino": "openvino"}
RIVALS = tuple(name for name, package in PACKAGES.items() if package)
TITLES = {"tvmopt": "tvmopt", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSpec:
    """A file and the engine that runs it.

    Attributes:
        engine: A key of ``PACKAGES``.
        path: An artefact for ``"tvmopt"``, an ONNX file for the others.
    """

    engine: str
    path: Path

    def __post_init__(self) -> None:
        if self.engine not in PACKAGES:
            near = difflib.get_close_matches(self.engine, PACKAGES, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(PACKAGES)}"
            raise OptionError(f"an engine must be a known one, got {self.engine!r}; {hint}")

    @property
    def title(self) -> str:
        """How a table names it."""
        return TITLES[self.engine]

    @property
    def label(self) -> str:
        """How a message names it: as the command line spells it."""
        return self.path.name if self.engine == "tvmopt" else f"{self.path.name}@{self.engine}"

    @property
    def installed(self) -> bool:
        """Whether this Python can import the engine."""
        package = PACKAGES[self.engine]
        return not package or importlib.util.find_spec(package) is not None


def parse(text: str) -> EngineSpec:
    """Read ``model.onnx@onnxruntime`` or ``model.so``.

    Raises:
        OptionError: The engine is missing, unknown, or does not run such files.
    """
    path, at, engine = text.rpartition("@")
    if not at or "/" in engine:
        path, engine = text, "tvmopt"
        if Path(text).suffix == ".onnx":
            raise OptionError(
                f"an ONNX file must say which engine runs it, got {text!r}; "
                f"write {' or '.join(f'{text}@{rival}' for rival in RIVALS)}"
            )
    return EngineSpec(engine=engine, path=Path(path))


def require(spec: EngineSpec) -> EngineSpec:
    """Return ``spec`` if its engine and its file are there.

    Raises:
        OptionError: The engine is not installed.
        ArtifactError: The artefact is missing.
        ModelError: The ONNX file is missing.
    """
    if not spec.installed:
        package = PACKAGES[spec.engine]
        raise OptionError(
            f"{spec.title} must be installed to run {spec.label}, it is not; "
            f"install it with 'pip install {package}'"
        )
    if not spec.path.is_file():
        error = ArtifactError if spec.engine == "tvmopt" else ModelError
        raise error(f"{spec.path}: must be a readable file, there is none")
    return spec
