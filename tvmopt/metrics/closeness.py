"""How near the outputs of one engine are to another's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class Closeness:
    """Two arrays compared.

    Attributes:
        max_error: The largest absolute difference.
        peak: The largest absolute value of the reference.
        cosine: Of the angle between each sample and its reference, the mean over samples; 1 for
            two samples of zeros.
    """

    max_error: float
    peak: float
    cosine: float

    @property
    def relative_error(self) -> float:
        """``max_error`` as a share of ``peak``; 0 for two arrays of zeros."""
        return self.max_error / self.peak if self.peak else (0.0 if not self.max_error else np.inf)


def closeness(values: np.ndarray, reference: np.ndarray) -> Closeness:
    """Compare ``values`` with ``reference``, both (n, ...) of one shape, in float64."""
    a = values.reshape(len(values), -1).astype(np.float64)
    b = reference.reshape(len(reference), -1).astype(np.float64)
    lengths = np.asarray(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    both_zero = ~a.any(axis=1) & ~b.any(axis=1)
    dots = np.einsum("ij,ij->i", a, b)
    cosines = np.asarray(both_zero, np.float64)
    np.divide(dots, lengths, out=cosines, where=lengths > 0)
    return Closeness(
        max_error=float(np.max(np.abs(a - b), initial=0.0)),
        peak=float(np.max(np.abs(b), initial=0.0)),
        cosine=float(np.mean(cosines)) if len(cosines) else 1.0,
    )
