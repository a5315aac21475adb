"""Say how much of a matrix its leading singular values hold. NumPy.

The *energy* of singular values is their squares' share of the sum over all: of the squared
Frobenius norm, which a truncated SVD keeps as well as any matrix of its rank can.

Source: C. Eckart and G. Young, "The approximation of one matrix by another of lower rank",
Psychometrika 1 (1936).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tvmopt.errors import OptionError


def as_matrix(weight: np.ndarray) -> np.ndarray:
    """Return a layer's weight as the matrix whose rank counts.

    Args:
        weight: (k, n) of a matmul, or (outputs, kernel height, kernel width, inputs) of a
            convolution.

    Returns:
        (k, n) as it is; a convolution's as (outputs, kernel height * kernel width * inputs).
    """
    return weight if weight.ndim == 2 else weight.reshape(len(weight), -1)


def singular_values(matrix: np.ndarray) -> np.ndarray:
    """Return the singular values of (m, n), descending, (min(m, n),) float64."""
    return np.linalg.svd(matrix.astype(np.float64), compute_uv=False)


def rank_at(values: np.ndarray, energy: float) -> int:
    """Return the least number of leading singular values that hold a share of the energy.

    Args:
        values: (p,), descending.
        energy: In (0, 1].

    Returns:
        In [1, p].
    """
    held = np.cumsum(np.square(values, dtype=np.float64))
    return min(int(np.searchsorted(held, energy * held[-1])) + 1, len(values))


def ranks_at(weight: np.ndarray, energies: Sequence[float]) -> tuple[int, ...]:
    """Return a weight's numerical rank at each of some energies.

    Args:
        weight: As for ``as_matrix``.
        energies: Each in (0, 1].

    Raises:
        OptionError: An energy is outside (0, 1].
    """
    for energy in energies:
        if not 0.0 < energy <= 1.0:
            raise OptionError(f"energy must be in (0, 1], got {energy!r}")
    values = singular_values(as_matrix(weight))
    return tuple(rank_at(values, energy) for energy in energies)
