from __future__ import annotations

import numpy as np
import pytest

from tvmopt.metrics.closeness import closeness


def test_error_is_the_largest_and_relative_to_the_peak() -> None:
    found = closeness(np.array([[1.0, 2.0], [3.0, -8.0]]), np.array([[1.0, 2.5], [3.0, -10.0]]))
    assert (found.max_error, found.peak, found.relative_error) == (2.0, 10.0, 0.2)


def test_cosine_is_the_mean_over_samples() -> None:
    found = closeness(np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([[0.0, 1.0], [2.0, 2.0]]))
    assert found.cosine == pytest.approx(0.5, rel=1e-15)


def test_two_zeros_agree() -> None:
    found = closeness(np.zeros((2, 3)), np.zeros((2, 3)))
    assert (found.max_error, found.relative_error, found.cosine) == (0.0, 0.0, 1.0)


def test_something_for_a_zero_is_infinitely_wrong() -> None:
    found = closeness(np.ones((1, 2)), np.zeros((1, 2)))
    assert found.relative_error == np.inf
    assert found.cosine == 0.0


def test_integers_do_not_wrap() -> None:
    assert closeness(np.array([[250]], np.uint8), np.array([[5]], np.uint8)).max_error == 245.0
