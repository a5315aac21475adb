"""What of a net's outputs counts as lost."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from scipy.special import softmax
from tvm import relax

from tvmopt.errors import DataError
from tvmopt.passes.quantize.output_loss import (
    MARGIN,
    Limits,
    OutputLoss,
    changed_share,
    decides,
    output_names,
)

LIMITS = Limits(changed=0.1, error=0.01)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (lambda x: relax.op.nn.softmax(x), True),
        (lambda x: relax.op.reshape(relax.op.nn.softmax(x), (2, 1, 6)), True),
        (lambda x: relax.op.reshape(relax.op.nn.softmax(x), (3, 4)), False),
        (lambda x: relax.op.nn.softmax(x, axis=0), False),
        (lambda x: relax.op.nn.relu(relax.op.nn.softmax(x)), False),
    ],
)
def test_a_softmax_over_the_last_axis_decides(
    body: Callable[[relax.Var], relax.Expr], expected: bool
) -> None:
    x = relax.Var("x", relax.TensorType((2, 6), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            result = builder.emit_output(builder.normalize(body(x)), "result")
        builder.emit_func_output(result)
    mod = tvm.relax.transform.Normalize()(builder.finalize())
    assert [decides(mod, name) for name in output_names(mod)] == [expected]


def test_the_share_expected_is_the_share_that_changes() -> None:
    rng = np.random.default_rng(0)
    ratios = np.abs(rng.standard_normal((4000, 3)))
    moved = 0.3 * rng.standard_normal(ratios.shape)
    changes = np.mean(np.any(ratios + moved < 0.0, axis=1))
    # 4000 samples of a share near 0.3: a deviation of sqrt(.3 * .7 / 4000) = .0072, four of them.
    expected = changed_share(ratios, moved, np.ones(ratios.shape, bool))
    assert expected == pytest.approx(changes, abs=0.029)
    assert 0.2 < expected < 0.45
    assert changed_share(ratios, moved, np.zeros(ratios.shape, bool)) == 0.0
    assert changed_share(ratios, 0.0 * moved, np.ones(ratios.shape, bool)) == 0.0


def test_close_calls_do_not_count() -> None:
    logits = np.zeros((8, 1, 4))
    logits[..., 1] = np.linspace(0.0, 0.15, 8)[:, None]
    close = softmax(logits, axis=-1)
    lead = np.sort(close, axis=-1)[..., -1] - np.sort(close, axis=-1)[..., -2]
    assert np.all(lead < MARGIN)
    loss = OutputLoss([True], [[row] for row in close], LIMITS)
    assert loss.lost([[row[..., ::-1]] for row in close]) == 0.0


def test_a_loss_is_a_share_of_what_may_be_lost() -> None:
    rng = np.random.default_rng(1)
    values = [rng.standard_normal((1, 64)).astype("f4") for _ in range(5)]
    loss = OutputLoss([False], [[value] for value in values], LIMITS)
    assert loss.lost([[value] for value in values]) == 0.0
    # Every value 5 % too large: a squared error of 0.05^2 of the square, a quarter of the limit.
    assert loss.lost([[1.05 * value] for value in values]) == pytest.approx(0.25, rel=1e-5)


def test_the_worst_output_counts() -> None:
    rng = np.random.default_rng(2)
    sure = softmax(4.0 * rng.standard_normal((6, 1, 5)), axis=-1)
    plain = rng.standard_normal((6, 1, 3))
    batches = [[a, b] for a, b in zip(sure, plain, strict=True)]
    loss = OutputLoss([True, False], batches, LIMITS)
    assert loss.lost([[a, 1.2 * b] for a, b in batches]) == pytest.approx(4.0)
    # All likelihoods alike: every ratio moves by itself.
    assert loss.lost([[np.full_like(a, 0.2), b] for a, b in batches]) > 1.0


def test_what_is_not_finite_is_refused() -> None:
    loss = OutputLoss([False], [[np.ones(3)]], LIMITS)
    with pytest.raises(DataError, match="output 0 must be finite for every calibration sample"):
        loss.lost([[np.array([1.0, np.inf, 0.0])]])


def test_outputs_of_floats_that_are_not_finite_are_told() -> None:
    batches = [[np.ones((1, 2)), np.ones(3)], [np.full((1, 2), np.nan), np.ones(3)]]
    assert OutputLoss([True, False], batches[:1], LIMITS).not_finite == ()
    loss = OutputLoss([True, False], batches, LIMITS)
    assert loss.not_finite == (0,)
    with pytest.raises(DataError, match="floats must be finite to be compared, got others in 0"):
        loss.lost(batches)
