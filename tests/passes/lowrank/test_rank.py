"""Mirror of passes/lowrank/rank.py."""

from __future__ import annotations

import numpy as np
import pytest

from tvmopt.errors import OptionError
from tvmopt.passes.lowrank.rank import as_matrix, rank_at, ranks_at, singular_values


def test_a_rank_holds_its_energy_and_one_less_does_not() -> None:
    values = np.array([4.0, 2.0, 1.0, 0.5])
    held = np.cumsum(values**2) / np.sum(values**2)
    for energy in (0.1, 0.76, 0.9, 0.99, 1.0):
        rank = rank_at(values, energy)
        assert held[rank - 1] >= energy
        assert rank == 1 or held[rank - 2] < energy


def test_a_convolution_counts_as_a_matrix_of_outputs_by_taps() -> None:
    weight = np.random.default_rng(0).standard_normal((6, 3, 3, 4))
    assert as_matrix(weight).shape == (6, 36)
    assert np.array_equal(as_matrix(weight)[2], weight[2].reshape(-1))
    assert singular_values(as_matrix(weight)).shape == (6,)


def test_the_numerical_rank_of_a_product_of_thin_matrices_is_theirs() -> None:
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((20, 3)) @ rng.standard_normal((3, 12))
    # What is behind the third singular value is rounding: about 1e-32 of the energy.
    assert ranks_at(weight.astype(np.float64), (1e-9, 1 - 1e-9)) == (1, 3)


def test_zeros_have_rank_one() -> None:
    assert ranks_at(np.zeros((3, 3), np.float32), (0.5,)) == (1,)


@pytest.mark.parametrize("energy", [0.0, -0.5, 1.5])
def test_an_energy_outside_its_domain_is_refused(energy: float) -> None:
    with pytest.raises(OptionError, match=r"energy must be in \(0, 1\], got"):
        ranks_at(np.eye(3), (energy,))
