"""Accuracy, precision, recall and F1 by hand, on one confusion matrix."""

from __future__ import annotations

import numpy as np
import pytest

from tvmopt.metrics import f1, precision, recall
from tvmopt.metrics.accuracy import accuracy
from tvmopt.metrics.confusion import cells, confusion
from tvmopt.metrics.top_k import in_top_k, top_k

# Class 0: 3 hits, 1 taken for 1. Class 1: 1 hit, 1 taken for 0. Class 2 never occurs, but takes
# one of class 1's samples. Class 3 neither occurs nor is predicted.
MATRIX = np.array([[3, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


def samples() -> tuple[np.ndarray, np.ndarray]:
    labels, predicted = np.nonzero(MATRIX)
    times = MATRIX[labels, predicted]
    labels, predicted = np.repeat(labels, times), np.repeat(predicted, times)
    return np.eye(4, dtype=np.float32)[predicted], labels


def test_rows_are_labels_and_columns_predictions() -> None:
    assert np.array_equal(confusion(*samples()), MATRIX)


def test_of_equal_scores_the_first_class_wins() -> None:
    assert confusion(np.zeros((1, 3)), np.array([2])).tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0]]


def test_a_cell_is_row_times_classes_plus_column() -> None:
    assert cells(np.array([[0.0, 1.0]]), np.array([1])).tolist() == [3]


def test_accuracy_is_the_share_on_the_diagonal() -> None:
    assert accuracy(MATRIX) == 4 / 7


def test_precision_is_by_column() -> None:
    assert precision.by_class(MATRIX).tolist() == [3 / 4, 1 / 2, 0, 0]


def test_recall_is_by_row() -> None:
    assert recall.by_class(MATRIX).tolist() == [3 / 4, 1 / 3, 0, 0]


def test_f1_is_the_harmonic_mean() -> None:
    p, r = precision.by_class(MATRIX)[:2], recall.by_class(MATRIX)[:2]
    np.testing.assert_allclose(f1.by_class(MATRIX)[:2], 2 * p * r / (p + r), rtol=1e-15)


@pytest.mark.parametrize("metric", [precision.precision, recall.recall, f1.f1])
def test_a_class_that_neither_occurs_nor_is_predicted_does_not_count(metric: object) -> None:
    assert metric(MATRIX) == pytest.approx(metric(MATRIX[:3, :3]), rel=1e-15)


def test_a_perfect_classifier_has_all_ones() -> None:
    matrix = np.diag([5, 1, 0])
    for metric in (accuracy, precision.precision, recall.recall, f1.f1):
        assert metric(matrix) == 1.0


def test_top_k_counts_better_scores() -> None:
    scores = np.array([[0.1, 0.5, 0.4], [0.3, 0.3, 0.2]])
    labels = np.array([0, 1])
    assert in_top_k(scores, labels, 2).tolist() == [False, True]
    assert top_k(scores, labels, 3) == 1.0


def test_equal_scores_count_against_the_class() -> None:
    assert not in_top_k(np.zeros((1, 6)), np.array([0]), 5)[0]
