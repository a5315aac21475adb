"""What a model's answers are worth beside the float model's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tvmopt.metrics.closeness import closeness
from tvmopt.metrics.paired import flip_error


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """A share of samples that are right, paired with the float model's.

    Attributes:
        samples: How many there are.
        value: Share that is right, in [0, 1]; what is right is the task's to say.
        reference: Share that the float model gets right; 1 where its answer is what is right.
        error: Paired standard error of the drop, sqrt(flips) / n.
        cosine: Of outputs to the float model's, the mean over samples.
        relative_error: Largest difference of an output, as a share of the largest output.
    """

    samples: int
    value: float
    reference: float
    error: float
    cosine: float
    relative_error: float

    @property
    def drop(self) -> float:
        """How much worse it is than the float model, in [-1, 1]."""
        return self.reference - self.value


def compare(
    right: np.ndarray, reference_right: np.ndarray, outputs: np.ndarray, reference: np.ndarray
) -> Verdict:
    """Return the verdict on two models that saw the same samples.

    Args:
        right: Whether each answer is right, (n,) bool.
        reference_right: The same of the float model.
        outputs: What the answers come from, (n, ...).
        reference: The float model's.
    """
    near = closeness(outputs, reference)
    return Verdict(
        samples=len(right),
        value=float(np.mean(right)),
        reference=float(np.mean(reference_right)),
        error=flip_error(right, reference_right),
        cosine=near.cosine,
        relative_error=near.relative_error,
    )


def against_labels(outputs: np.ndarray, reference: np.ndarray, labels: np.ndarray) -> Verdict:
    """Judge scores (n, classes) by labels (n,)."""
    right = outputs.argmax(axis=1) == labels
    return compare(right, reference.argmax(axis=1) == labels, outputs, reference)
