"""How samples pass through a model batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tvmopt.runtime import TensorInfo
from tvmopt.samples import Arrays, batches, count_batches


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
