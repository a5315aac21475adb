"""Pass a file of labelled samples through engines and judge them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from tvmopt import samples
from tvmopt.cli import show
from tvmopt.errors import DataError, OptionError
from tvmopt.metrics import engines
from tvmopt.metrics.engines import EngineSpec
from tvmopt.metrics.evaluation import LABELS, Evaluation, check_metrics, evaluate
from tvmopt.metrics.inputs import input_infos
from tvmopt.metrics.prediction import outputs_of


def against_spec(against: str | None, max_drop: float | None) -> EngineSpec | None:
    """Read ``--against`` and check ``--max-drop``.

    Raises:
        OptionError: They contradict each other, or the engine is unknown or not installed.
        TvmoptError: The file is missing.
    """
    if max_drop is not None and not (math.isfinite(max_drop) and max_drop >= 0):
        raise OptionError(f"--max-drop must be at least 0 points, got {max_drop!r}")
    if against is None:
        if max_drop is not None:
            raise OptionError("--max-drop must come with --against, which it compares with")
        return None
    plain_onnx = "@" not in Path(against).name and Path(against).suffix == ".onnx"
    return engines.require(engines.parse(f"{against}@onnxruntime" if plain_onnx else against))


def evaluate_file(
    model: Path,
    data: Path,
    metrics: Sequence[str],
    other: EngineSpec | None,
    *,
    threads: int,
    quiet: bool,
) -> Evaluation:
    """Judge an artefact on the samples of a file, which progress bars accompany.

    Raises:
        DataError: The file does not fit the model, or holds no labels and there is no other engine.
        TvmoptError: An engine refuses.
    """
    check_metrics(metrics)
    infos = input_infos(model)
    arrays = samples.load_npz(data)
    labels = arrays.get(LABELS) if LABELS not in {info.name for info in infos} else None
    if labels is None and other is None:
        raise DataError(
            f"{data}: must hold an array {LABELS!r}, it does not; add it, or give --against a "
            "model to compare with"
        )
    inputs = samples.select_inputs(infos, arrays, str(data))
    spec = EngineSpec(engine="tvmopt", path=model)
    results = []
    for one in (spec, *([other] if other else [])):
        with show.progress(one.label, quiet=quiet) as step:
            results.append(
                outputs_of(one, infos, inputs, where=str(data), threads=threads, progress=step)
            )
    reference = results[1] if other else None
    return evaluate(results[0], labels, metrics=metrics, reference=reference)
