"""Samples in ``.npz`` files: whether they fit a model, and its batches of them."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from tvmopt.errors import DataError

Arrays = Mapping[str, np.ndarray]


class Port(Protocol):
    """One input of a model, of a file or of an artefact."""

    @property
    def name(self) -> str:
        """The model's own name for it."""

    @property
    def dtype(self) -> str:
        """NumPy's name of the element type."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its lengths, all fixed; the first is the batch."""


def load_npz(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an ``.npz`` file.

    Raises:
        DataError: The file is missing, no ``.npz``, damaged, or holds Python objects.
    """
    try:
        with path.open("rb") as file:
            arrays = np.load(file, allow_pickle=False)
            if isinstance(arrays, np.ndarray):
                raise DataError(f"{path}: must be an .npz file of named arrays, got a single array")
            return {name: arrays[name] for name in arrays.files}
    except DataError:
        raise
    except OSError as err:
        raise DataError(f"{path}: must be a readable .npz file: {err.strerror or err}") from err
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as err:
        raise DataError(f"{path}: must be an .npz file of plain arrays: {_first(err)}") from err


def _first(err: Exception) -> str:
    lines = str(err).splitlines()
    text = lines[0] if lines else type(err).__name__
    if "allow_pickle" in str(err) or "pickle" in str(err).lower():
        return "it is none, or holds Python objects, which are never loaded"
    return text


def select_inputs(infos: Sequence[Port], arrays: Arrays, where: str) -> dict[str, np.ndarray]:
    """Return the model's inputs among ``arrays``; others, such as labels, are left out.

    Raises:
        DataError: One is missing.
    """
    missing = [info.name for info in infos if info.name not in arrays]
    if missing:
        wanted = ", ".join(repr(info.name) for info in infos)
        got = ", ".join(map(repr, arrays)) or "no array"
        raise DataError(f"{where}: arrays must be named as the inputs {wanted}, got {got}")
    return {info.name: arrays[info.name] for info in infos}


def count_batches(infos: Sequence[Port], inputs: Arrays, where: str) -> int:
    """Return how many runs feed all samples.

    Raises:
        DataError: An array's dtype or sample shape is not the model's, or the samples leave a
            remainder.
    """
    counts = {info.name: _batches_of(info, inputs[info.name], where) for info in infos}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{count} of {name!r}" for name, count in counts.items())
        raise DataError(f"{where}: all inputs must hold as many samples, got batches {listed}")
    return next(iter(counts.values()), 1)


def _batches_of(info: Port, array: np.ndarray, where: str) -> int:
    if array.dtype != np.dtype(info.dtype):
        raise DataError(f"{where}: {info.name!r} must be {info.dtype}, got {array.dtype}")
    if array.shape == info.shape:
        return 1
    batch, sample = (info.shape[0], info.shape[1:]) if info.shape else (1, ())
    if array.ndim == 0 or array.shape[1:] != sample:
        wanted = ", ".join(["samples", *map(str, sample)])
        raise DataError(f"{where}: {info.name!r} must have shape ({wanted}), got {array.shape}")
    if len(array) == 0:
        raise DataError(f"{where}: {info.name!r} must hold samples, got none")
    if len(array) % batch:
        raise DataError(
            f"{where}: {info.name!r} must hold a multiple of the model's batch of {batch} samples, "
            f"got {len(array)}; add or drop samples, or compile with batch 1"
        )
    return len(array) // batch


def batches(infos: Sequence[Port], inputs: Arrays, count: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield the inputs of each of ``count`` runs, views where they can be."""
    for i in range(count):
        yield batch(infos, inputs, i)


def batch(infos: Sequence[Port], inputs: Arrays, i: int) -> dict[str, np.ndarray]:
    """Return the inputs of run ``i``, counted from 0; views where they can be."""
    return {info.name: _batch(info, inputs[info.name], i) for info in infos}


def _batch(info: Port, array: np.ndarray, i: int) -> np.ndarray:
    if array.shape == info.shape:
        return array
    batch = info.shape[0] if info.shape else 1
    return array[i * batch : (i + 1) * batch].reshape(info.shape)
