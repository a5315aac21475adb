"""Pass samples through a model in any engine, in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tvmopt.metrics.engines import EngineSpec, require
from tvmopt.metrics.samples import predict
from tvmopt.metrics.sessions import open_session
from tvmopt.runtime import TensorInfo
from tvmopt.samples import batches, count_batches


def outputs_of(
    spec: EngineSpec,
    infos: Sequence[TensorInfo],
    inputs: Mapping[str, np.ndarray],
    *,
    where: str,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, np.ndarray]:
    """Return the outputs of all samples, by name; see ``samples.predict``.

    Args:
        spec: The model.
        infos: Its inputs; their first axis is the batch in which samples are fed.
        inputs: Samples along the first axis, by name.
        where: Where the samples come from, for messages.
        threads: Of the engine.
        progress: Is told (runs done, runs in all).

    Raises:
        TvmoptError: The model cannot be opened, or the samples do not fit it.
    """
    count = count_batches(infos, inputs, where)
    first = next(batches(infos, inputs, count))
    with contextlib.closing(open_session(require(spec), first, threads)) as session:

        def run(given: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
            session.bind(given)
            session.run()
            return session.outputs()

        return predict(run, infos, inputs, where, progress)
