from __future__ import annotations

import re

import numpy as np
import pytest

from tvmopt.errors import DataError, OptionError
from tvmopt.metrics.evaluation import METRICS, as_scores, check_metrics, evaluate

LABELS = np.array([0, 1, 2, 3])
GOOD = np.eye(4, dtype=np.float32)
BAD = GOOD[[0, 1, 3, 3]]  # takes the third for the fourth


def test_scores_come_in_the_order_asked_for() -> None:
    found = evaluate({"y": GOOD}, LABELS, metrics=["f1", "accuracy"])
    assert [(score.name, score.value) for score in found.scores] == [("f1", 1.0), ("accuracy", 1.0)]
    assert found.samples == 4
    assert found.agreement is None


def test_a_drop_is_what_the_reference_has_more_with_its_paired_error() -> None:
    found = evaluate({"y": BAD}, LABELS, reference={"z": GOOD})
    score = found.score("accuracy")
    assert (score.value, score.reference, score.drop) == (0.75, 1.0, 0.25)
    assert score.error == np.sqrt(1) / 4
    assert found.agreement == 0.75
    assert found.score("f1").error > 0
    assert found.score("top5").drop == 0.0


def test_confusion_rows_are_labels() -> None:
    matrix = evaluate({"y": BAD}, LABELS).matrix
    assert matrix is not None
    assert matrix[2].tolist() == [0, 0, 0, 1]


def test_without_labels_outputs_are_compared() -> None:
    found = evaluate({"y": np.ones((2, 3, 3))}, None, reference={"z": np.full((2, 3, 3), 2.0)})
    assert found.scores == ()
    assert found.agreement is None
    assert found.closeness["y"].max_error == 1.0
    assert found.closeness["y"].cosine == pytest.approx(1.0)


def test_what_is_not_finite_is_counted() -> None:
    scores = GOOD.copy()
    scores[0, 1:3] = np.nan, np.inf
    assert evaluate({"y": scores}, LABELS).not_finite == 2


def test_trailing_ones_are_no_classes() -> None:
    scores = as_scores(np.zeros((2, 3, 1, 1)))
    assert scores is not None
    assert scores.shape == (2, 3)
    assert as_scores(np.zeros((2, 1))) is None
    assert as_scores(np.zeros((2, 3, 4))) is None
    assert as_scores(np.zeros(3)) is None


def test_labels_may_be_a_column() -> None:
    assert evaluate({"y": GOOD}, LABELS[:, None]).score("accuracy").value == 1.0


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[:3], "labels must be 4 whole numbers, got int64 of shape (3,)"),
        (LABELS.astype(np.float32), "labels must be 4 whole numbers, got float32"),
        (LABELS + 1, "labels must be in [0, 4), the model's classes, got 1 to 4"),
        (LABELS - 1, "got -1 to 2"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        evaluate({"y": GOOD}, labels)


def test_labels_need_scores() -> None:
    with pytest.raises(DataError, match="the first output must hold one score a class"):
        evaluate({"y": np.zeros((4, 2, 2))}, LABELS)


def test_a_reference_of_other_shapes_is_refused() -> None:
    with pytest.raises(DataError, match="outputs of the same shapes"):
        evaluate({"y": GOOD}, None, reference={"y": GOOD[:, :3]})


def test_the_nearest_metric_is_offered() -> None:
    with pytest.raises(OptionError, match="got 'acuracy'; did you mean 'accuracy'"):
        check_metrics(["acuracy"])
    with pytest.raises(OptionError, match="got none"):
        check_metrics([])
    assert check_metrics([*METRICS, "f1"]) == METRICS
