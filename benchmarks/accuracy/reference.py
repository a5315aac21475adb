"""What a float model answers, by ONNX Runtime in float32, kept in the zoo's cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from benchmarks.zoo.cache import CACHE

FOLDER = CACHE / "reference"
AT_ONCE = 16  # samples; the float model's batch is open

Arrays = Mapping[str, np.ndarray]


def float_answers(
    path: Path, stored: Arrays, prepare: Callable[[Arrays], dict[str, np.ndarray]]
) -> np.ndarray:
    """Return the float model's first output for each sample, (n, ...).

    The first call takes as long as the model does; later ones read a file, whose name says which
    model, which data and which engine it is of.

    Args:
        path: ONNX file with an open batch dimension.
        stored: Samples along the first axis.
        prepare: Turns them into the model's inputs.
    """
    import onnxruntime  # half a second that a cached answer does without

    name = f"{path.stem}-{_key(path, stored, onnxruntime.__version__)}.npy"
    out = FOLDER / name
    if not out.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # the order of sums, and so the last bit, is fixed
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        count = len(next(iter(stored.values())))
        parts = []
        for i in range(0, count, AT_ONCE):
            feed = prepare({key: array[i : i + AT_ONCE] for key, array in stored.items()})
            parts.append(session.run(None, feed)[0])
        part = out.with_suffix(".part.npy")
        np.save(part, np.concatenate(parts))
        part.replace(out)
    return np.load(out)


def _key(path: Path, stored: Arrays, engine: str) -> str:
    digest = hashlib.sha256(f"{engine} {AT_ONCE}".encode())
    digest.update(path.read_bytes())
    for name, array in stored.items():
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:24]
