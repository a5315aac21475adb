"""Stated inputs for a measurement that gets none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tvmopt import samples
from tvmopt.errors import DataError
from tvmopt.runtime import TensorInfo, read_manifest

SEED = 0


def random_inputs(infos: Sequence[TensorInfo], seed: int = SEED) -> dict[str, np.ndarray]:
    """Return inputs that any model can take.

    Floats are standard normal. Bytes are 0 to 127, as pixels may be. Wider integers are 0 or 1:
    they are mostly indices into tables whose length nobody states, or masks.

    Args:
        infos: The model's inputs.
        seed: Of the generator; the same seed gives the same arrays.
    """
    rng = np.random.default_rng(seed)
    return {info.name: _random(info, rng) for info in infos}


def _random(info: TensorInfo, rng: np.random.Generator) -> np.ndarray:
    dtype = np.dtype(info.dtype)
    if dtype.kind == "f":
        return rng.standard_normal(info.shape).astype(dtype)
    if dtype.kind not in "iub":
        raise DataError(f"input {info.name!r} must be given, {info.dtype} has no random values")
    limit = 128 if dtype.itemsize == 1 and dtype.kind != "b" else 2
    return rng.integers(0, limit, info.shape).astype(dtype)


def given_or_random(model: Path, given: Path | None) -> tuple[dict[str, np.ndarray], str]:
    """Return one batch of an artefact's inputs, and where they come from.

    Args:
        model: The artefact; its code is not loaded.
        given: An ``.npz`` file whose first batch is taken; None makes random inputs.

    Raises:
        ArtifactError: The artefact cannot be read.
        DataError: The file does not fit it.
    """
    infos = input_infos(model)
    if given is None:
        return random_inputs(infos), f"random, seed {SEED}"
    where = str(given)
    arrays = samples.select_inputs(infos, samples.load_npz(given), where)
    count = samples.count_batches(infos, arrays, where)
    return next(samples.batches(infos, arrays, count)), where


def input_infos(model: Path) -> tuple[TensorInfo, ...]:
    """Return an artefact's inputs without loading its code.

    Raises:
        ArtifactError: The artefact cannot be read.
    """
    ports = read_manifest(model)["inputs"]
    return tuple(
        TensorInfo(name=port["name"], dtype=port["dtype"], shape=tuple(port["shape"]))
        for port in ports
    )
