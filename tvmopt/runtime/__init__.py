"""Open an artefact and run it: ctypes and numpy, no compiler."""

from tvmopt.runtime.manifest import read as read_manifest
from tvmopt.runtime.model import Binding, Model, StepInfo, StepTime, open  # noqa: A004 - runtime.open reads best
from tvmopt.runtime.tensors import TensorInfo, aligned_empty

__all__ = [
    "Binding",
    "Model",
    "StepInfo",
    "StepTime",
    "TensorInfo",
    "aligned_empty",
    "open",
    "read_manifest",
]
