"""Agreement of two models, and margins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvmopt.metrics.agreement import margins, same_class
from tvmopt.metrics.evaluation import evaluate


def test_the_highest_score_decides_whatever_the_scale() -> None:
    ours = np.array([[1.0, 2.0], [3.0, -1.0], [0.0, 0.0]])
    theirs = np.array([[-9.0, -8.0], [0.0, 9.0], [5.0, 4.0]])
    assert same_class(ours, theirs).tolist() == [True, False, True]


def test_evaluation_counts_the_same_samples() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=(2, 50, 3))
    found = evaluate({"y": ours}, None, reference={"y": theirs}).agreement
    assert found == same_class(ours, theirs).mean()


def test_the_margin_is_that_of_the_softmax() -> None:
    # softmax of log p is p itself: the margins are 0.7 - 0.2 and 0.5 - 0.5.
    logits = np.log([[0.2, 0.7, 0.1], [0.5, 0.5, 1e-300]])
    assert margins(logits) == pytest.approx([0.5, 0.0], abs=1e-12)


def test_large_logits_do_not_overflow() -> None:
    assert margins(np.array([[1e4, 0.0]], np.float32)).tolist() == [1.0]


@settings(derandomize=True, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.floats(-50, 50))
def test_a_margin_is_in_range_and_ignores_shifts(seed: int, shift: float) -> None:
    logits = np.random.default_rng(seed).normal(size=(4, 5))
    found = margins(logits)
    assert np.all((found >= 0) & (found <= 1))
    # Shifted logits are rounded at 2**-53 * 50, which moves a likelihood by less than 1e-13.
    assert margins(logits + shift) == pytest.approx(found, abs=1e-12)
