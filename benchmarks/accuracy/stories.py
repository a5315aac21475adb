"""MiniLM-L6 on Reuters R8: a probe on its embeddings names the class of 2,189 news stories.

The probe is a logistic regression fitted to the float model's embeddings, as somebody's classifier
would have been before the encoder was compressed.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from benchmarks.accuracy.reference import float_answers
from benchmarks.accuracy.task import Task
from benchmarks.accuracy.verdict import Verdict, compare
from benchmarks.zoo.fetch import fetch, fetch_data

NAMES = ("input_ids", "attention_mask")
TOKENS = 64
INVERSE_PENALTY = 30.0


def minilm() -> Task:
    """Return the task."""
    path = fetch("minilm_l6_v2")
    with np.load(fetch_data("reuters_r8")) as file:
        evaluation, labels = {name: file[name] for name in NAMES}, file["labels"]
        probe = {name: file[f"probe_{name}"] for name in NAMES}
        probe_labels = file["probe_labels"]
        calibration = {name: file[f"calibration_{name}"] for name in NAMES}
    weights = fit(float_answers(path, probe, dict), probe_labels)
    return Task(
        id="minilm_l6_v2",
        metric="accuracy",
        path=path,
        shapes=dict.fromkeys(NAMES, (1, TOKENS)),
        calibration=calibration,
        evaluation=evaluation,
        prepare=dict,
        reference=float_answers(path, evaluation, dict),
        judge=partial(judge, weights=weights, labels=labels),
    )


def fit(embeddings: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the weights (d + 1, classes) of a logistic regression; the last row is the bias.

    They minimize the summed cross entropy plus ||W||^2 / (2 ``INVERSE_PENALTY``), which leaves out
    the bias: it is convex, so that the result does not depend on where the search starts.

    Args:
        embeddings: (n, d) of length 1.
        labels: (n,) in 0..classes - 1, each of which occurs.
    """
    x = _with_one(embeddings)
    hot = np.eye(int(labels.max()) + 1)[labels]
    shape = (x.shape[1], hot.shape[1])

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w = flat.reshape(shape)
        penalized = np.vstack([w[:-1], np.zeros((1, shape[1]))]) / INVERSE_PENALTY
        log_p = x @ w
        log_p -= logsumexp(log_p, axis=1, keepdims=True)
        value = -np.sum(hot * log_p) + 0.5 * np.sum(penalized * w)
        return float(value), (x.T @ (np.exp(log_p) - hot) + penalized).ravel()

    found = minimize(loss, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B")
    return found.x.reshape(shape)


def judge(
    answers: np.ndarray, reference: np.ndarray, weights: np.ndarray, labels: np.ndarray
) -> Verdict:
    """Return how often the probe names the right class."""
    right, reference_right = (
        (_with_one(outputs) @ weights).argmax(axis=1) == labels for outputs in (answers, reference)
    )
    return compare(right, reference_right, answers, reference)


def _with_one(embeddings: np.ndarray) -> np.ndarray:
    return np.hstack([embeddings.astype(np.float64), np.ones((len(embeddings), 1))])
