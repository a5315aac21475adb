"""What a model's outputs are worth: against labels, and against another engine's outputs."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tvmopt.errors import DataError, OptionError
from tvmopt.metrics.accuracy import accuracy
from tvmopt.metrics.agreement import same_class
from tvmopt.metrics.closeness import Closeness, closeness
from tvmopt.metrics.confusion import cells, confusion
from tvmopt.metrics.f1 import f1
from tvmopt.metrics.paired import bootstrap_error, flip_error
from tvmopt.metrics.precision import precision
from tvmopt.metrics.recall import recall
from tvmopt.metrics.top_k import in_top_k

Arrays = Mapping[str, np.ndarray]

# Functions of the confusion matrix; top5 is none.
_OF_MATRIX: dict[str, Callable[[np.ndarray], float]] = {
    "accuracy": accuracy,
    "precision": precision,
    "recall": recall,
    "f1": f1,
}
METRICS = ("accuracy", "top5", "precision", "recall", "f1")
LABELS = "labels"
TOP = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One metric of a classifier.

    Attributes:
        name: One of ``METRICS``; precision, recall and f1 are means over classes.
        value: In [0, 1].
        reference: The other engine's, or None where there is none.
        error: Paired standard error of ``value - reference``, or None.
    """

    name: str
    value: float
    reference: float | None = None
    error: float | None = None

    @property
    def drop(self) -> float | None:
        """``reference - value``: above 0 the model is worse than the reference."""
        return None if self.reference is None else self.reference - self.value


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Evaluation:
    """What was found.

    Attributes:
        samples: How many passed through the model.
        scores: In the order asked for; empty without labels.
        matrix: Confusion (classes, classes), rows are labels; None without labels.
        agreement: Share of samples to which both engines give the same class; None where there is
            no other, or the output holds no scores of classes.
        closeness: How near each output is to the other engine's, by name.
        not_finite: Elements of the outputs that are NaN or infinite.
    """

    samples: int
    scores: tuple[Score, ...] = ()
    matrix: np.ndarray | None = field(default=None, repr=False)
    agreement: float | None = None
    closeness: Mapping[str, Closeness] = field(default_factory=dict)
    not_finite: int = 0

    def score(self, name: str) -> Score:
        """Return the score called ``name``."""
        return next(score for score in self.scores if score.name == name)


def check_metrics(names: Sequence[str]) -> tuple[str, ...]:
    """Return ``names`` if all are known and there is one.

    Raises:
        OptionError: One is unknown; the message names the nearest.
    """
    for name in names:
        if name not in METRICS:
            near = difflib.get_close_matches(name, METRICS, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise OptionError(f"a metric must be one of {', '.join(METRICS)}, got {name!r}{hint}")
    if not names:
        raise OptionError(f"a metric must be one of {', '.join(METRICS)}, got none")
    return tuple(dict.fromkeys(names))


def evaluate(
    outputs: Arrays,
    labels: np.ndarray | None,
    *,
    metrics: Sequence[str] = METRICS,
    reference: Arrays | None = None,
) -> Evaluation:
    """Judge a model's outputs.

    Args:
        outputs: (n, ...) each, by name; the first holds the scores where there are labels.
        labels: (n,) the classes, whole numbers; None: there are none.
        metrics: Names in ``METRICS``; only for labels.
        reference: Another engine's outputs for the same samples, in the same order.

    Raises:
        DataError: Labels or the reference do not fit the outputs.
        OptionError: A metric is unknown.
    """
    names = check_metrics(metrics)
    scores = as_scores(next(iter(outputs.values())))
    other = None
    if reference is not None:
        _check_reference(outputs, reference)
        other = as_scores(next(iter(reference.values())))
    found: tuple[Score, ...] = ()
    matrix = None
    if labels is not None:
        scores, labels = _check_labels(scores, labels)
        matrix = confusion(scores, labels)
        found = tuple(_score(name, scores, labels, other) for name in names)
    return Evaluation(
        samples=len(next(iter(outputs.values()))),
        scores=found,
        matrix=matrix,
        agreement=_agreement(scores, other),
        closeness=_closeness(outputs, reference),
        not_finite=sum(int(np.count_nonzero(~np.isfinite(a))) for a in outputs.values()),
    )


def as_scores(array: np.ndarray) -> np.ndarray | None:
    """Return ``array`` as (n, classes), or None where it holds no scores of at least 2 classes."""
    if array.ndim < 2 or any(size != 1 for size in array.shape[2:]) or array.shape[1] < 2:
        return None
    return array.reshape(array.shape[:2])


def _check_labels(scores: np.ndarray | None, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if scores is None:
        raise DataError(
            "the first output must hold one score a class to be compared with labels, it does not; "
            "leave out the labels and give a reference to compare with"
        )
    if labels.shape == (len(scores), 1):
        labels = labels[:, 0]
    if labels.shape != (len(scores),) or labels.dtype.kind not in "iu":
        raise DataError(
            f"labels must be {len(scores)} whole numbers, got {labels.dtype} of shape "
            f"{labels.shape}"
        )
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise DataError(
            f"labels must be in [0, {scores.shape[1]}), the model's classes, got "
            f"{labels.min()} to {labels.max()}"
        )
    return scores, labels.astype(np.int64)


def _check_reference(outputs: Arrays, reference: Arrays) -> None:
    ours = [array.shape for array in outputs.values()]
    theirs = [array.shape for array in reference.values()]
    if ours != theirs:
        raise DataError(f"both engines must give outputs of the same shapes, got {ours}, {theirs}")


def _score(name: str, scores: np.ndarray, labels: np.ndarray, other: np.ndarray | None) -> Score:
    value = _value(name, scores, labels)
    if other is None:
        return Score(name=name, value=value)
    return Score(
        name=name,
        value=value,
        reference=_value(name, other, labels),
        error=_error(name, scores, other, labels),
    )


def _value(name: str, scores: np.ndarray, labels: np.ndarray) -> float:
    if name in _OF_MATRIX:
        return _OF_MATRIX[name](confusion(scores, labels))
    return float(np.mean(in_top_k(scores, labels, TOP)))


def _error(name: str, scores: np.ndarray, other: np.ndarray, labels: np.ndarray) -> float:
    if name == "accuracy":
        return flip_error(scores.argmax(axis=1) == labels, other.argmax(axis=1) == labels)
    if name == "top5":
        return flip_error(in_top_k(scores, labels, TOP), in_top_k(other, labels, TOP))
    return bootstrap_error(
        _OF_MATRIX[name], cells(scores, labels), cells(other, labels), scores.shape[1]
    )


def _agreement(scores: np.ndarray | None, other: np.ndarray | None) -> float | None:
    if scores is None or other is None:
        return None
    return float(np.mean(same_class(scores, other)))


def _closeness(outputs: Arrays, reference: Arrays | None) -> dict[str, Closeness]:
    if reference is None:
        return {}
    pairs = zip(outputs.items(), reference.values(), strict=True)
    return {name: closeness(ours, theirs) for (name, ours), theirs in pairs}
