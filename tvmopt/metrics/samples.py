"""Samples in ``.npz`` files, and how they pass through a model batch by batch."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from tvmopt.errors import DataError
from tvmopt.runtime import TensorInfo

Arrays = Mapping[str, np.ndarray]


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


def select_inputs(infos: Sequence[TensorInfo], arrays: Arrays, where: str) -> dict[str, np.ndarray]:
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


def count_batches(infos: Sequence[TensorInfo], inputs: Arrays, where: str) -> int:
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


def _batches_of(info: TensorInfo, array: np.ndarray, where: str) -> int:
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


def batches(infos: Sequence[TensorInfo], inputs: Arrays, count: int) -> Iterator[dict]:
    """Yield the inputs of each of ``count`` runs, views where they can be."""
    for i in range(count):
        yield {info.name: _batch(info, inputs[info.name], i) for info in infos}


def _batch(info: TensorInfo, array: np.ndarray, i: int) -> np.ndarray:
    if array.shape == info.shape:
        return array
    batch = info.shape[0] if info.shape else 1
    return array[i * batch : (i + 1) * batch].reshape(info.shape)


def predict(
    run: Callable[[Mapping[str, np.ndarray]], Arrays],
    infos: Sequence[TensorInfo],
    inputs: Arrays,
    where: str,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, np.ndarray]:
    """Feed all samples through a model.

    Args:
        run: Takes one batch by name, returns its outputs by name; it may reuse their memory.
        infos: The model's inputs, whose first axis is the batch.
        inputs: Samples along the first axis, by name.
        where: Where the samples come from, for messages.
        progress: Is told (runs done, runs in all).

    Returns:
        Outputs of all samples, by name: joined along the first axis where that is the batch, else
        with a new first axis, one entry a run.

    Raises:
        DataError: The inputs do not fit the model.
    """
    count = count_batches(infos, inputs, where)
    batch = infos[0].shape[0] if infos and infos[0].shape else 1
    results: dict[str, np.ndarray] = {}
    for i, given in enumerate(batches(infos, inputs, count)):
        for name, array in run(given).items():
            if name not in results:
                results[name] = np.empty((count, *array.shape), array.dtype)
            results[name][i] = array
        if progress:
            progress(i + 1, count)
    return {name: _join(array, batch) for name, array in results.items()}


def _join(array: np.ndarray, batch: int) -> np.ndarray:
    if array.ndim > 1 and array.shape[1] == batch:
        return array.reshape(array.shape[0] * batch, *array.shape[2:])
    return array
