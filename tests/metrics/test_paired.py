from __future__ import annotations

import numpy as np

from tvmopt.metrics.accuracy import accuracy
from tvmopt.metrics.paired import DRAWS, bootstrap_error, flip_error


def test_only_flips_count() -> None:
    first = np.array([True, True, False, False])
    assert flip_error(first, first) == 0.0
    assert flip_error(first, ~first) == np.sqrt(4) / 4
    assert flip_error(first, np.array([True, False, True, False])) == np.sqrt(2) / 4


def test_bootstrap_agrees_with_the_formula_where_there_is_one() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, 2000)
    first = np.where(rng.random(2000) < 0.9, labels, (labels + 1) % 3)
    second = np.where(rng.random(2000) < 0.9, labels, (labels + 2) % 3)
    drawn = bootstrap_error(accuracy, labels * 3 + first, labels * 3 + second, 3)
    # The relative standard error of a deviation from DRAWS draws is 1 / sqrt(2 (DRAWS - 1)), 5 %;
    # four of them. The formula neglects the squared mean difference, 1e-3 of the flips here.
    bound = 4 / np.sqrt(2 * (DRAWS - 1))
    np.testing.assert_allclose(drawn, flip_error(first == labels, second == labels), rtol=bound)


def test_bootstrap_of_the_same_model_is_zero() -> None:
    cells = np.array([0, 3, 1, 0])
    assert bootstrap_error(accuracy, cells, cells, 2) == 0.0
