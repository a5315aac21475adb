"""How much of what a net says is lost: changed decisions where it decides, else squared error.

A net *decides* where an output is a softmax over its last axis: of each row the likeliest class is
what is read. Where that is hardly likelier than the next, which of them wins is a matter of
rounding, so such rows do not count. How often the others change is not counted but estimated, for a
few samples hold few close calls: with d the logarithm of the ratio of the two likeliest classes,
and s the root mean square of what d moves by, a row changes with the probability that a normal
variable of deviation s exceeds d, and a sample where any of its rows does.

Source: none; derived here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import tvm
from scipy.special import ndtr
from tvm import relax

from tvmopt import ir
from tvmopt.errors import DataError

Outputs = Iterable[Sequence[np.ndarray]]
"""The outputs for one batch after the other, each time in the same order."""

MARGIN = 0.05  # of likelihood: below, either of two classes may as well win
_LEAST = 1e-30  # of a likelihood: beyond, nothing is in doubt
_DOUBT = np.log(100.0)  # rows whose ratio is greater say little of what moves the others
_SAME_ROWS = ("relax.reshape", "relax.squeeze", "relax.expand_dims", "relax.flatten")


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What may be lost.

    Attributes:
        changed: Share of samples that may be decided otherwise, in (0, 1].
        error: Squared error of outputs that decide nothing, as a share of their square, above 0.
    """

    changed: float
    error: float


def decides(mod: tvm.IRModule, name: str) -> bool:
    """Say whether a variable of "main" is a softmax over its last axis, of two classes or more.

    Args:
        mod: Its "main" is a straight line of bindings, whose names differ.
        name: The variable's.
    """
    values = {var.name: value for var, value in ir.bindings(mod["main"])}
    while (value := values.get(name)) is not None:
        if isinstance(value, relax.Var):
            name = value.name
        elif ir.is_call_to(value, *_SAME_ROWS) and isinstance(value.args[0], relax.Var):
            if ir.static_shape(value)[-1:] != ir.static_shape(value.args[0])[-1:]:
                return False
            name = value.args[0].name
        elif ir.is_call_to(value, "relax.nn.softmax"):
            shape = ir.static_shape(value.args[0])
            return int(value.attrs.axis) % len(shape) == len(shape) - 1 and shape[-1] > 1
        else:
            return False
    return False


def output_names(mod: tvm.IRModule) -> list[str]:
    """Return the variables that "main" returns, each once; constants are left out.

    Args:
        mod: Its "main" is a straight line of bindings, whose names differ.
    """
    values = dict(ir.bindings(mod["main"]))
    result = mod["main"].body.body
    value = values.get(result, result)
    fields = value.fields if isinstance(value, relax.Tuple) else [result]
    return list(dict.fromkeys(field.name for field in fields if isinstance(field, relax.Var)))


class OutputLoss:
    """What a net of floats says to some samples, and how much of it another net loses.

    Attributes:
        not_finite: Which of its outputs, by number, are not finite for some sample; what is lost of
            those cannot be told.
    """

    def __init__(self, deciding: Sequence[bool], outputs: Outputs, limits: Limits) -> None:
        """Take in what the net of floats says.

        Args:
            deciding: Which outputs are decisions.
            outputs: Batch by batch.
            limits: What may be lost.
        """
        self._limits, self._deciding = limits, tuple(deciding)
        self._expected: list[list[_Decisions | np.ndarray]] = []
        not_finite = set[int]()
        for batch in outputs:
            not_finite |= {i for i, value in enumerate(batch) if not np.isfinite(value).all()}
            self._expected.append(
                [
                    _Decisions.of(value) if decides and i not in not_finite else _exact(value)
                    for i, (decides, value) in enumerate(zip(self._deciding, batch, strict=True))
                ]
            )
        self.not_finite = tuple(sorted(not_finite))

    def lost(self, outputs: Outputs) -> float:
        """Return the greatest loss of any output as a share of its limit: at most 1 holds.

        Args:
            outputs: Of the other net for the same batches in the same order.

        Raises:
            DataError: An output is not finite, of the net of floats or of the other.
        """
        if self.not_finite:
            raise DataError(
                f"outputs of floats must be finite to be compared, got others in "
                f"{', '.join(map(str, self.not_finite))}; compare the other outputs"
            )
        moved: list[list[np.ndarray]] = [[] for _ in self._deciding]
        squares = np.zeros((len(self._deciding), 2))
        for expected, batch in zip(self._expected, outputs, strict=True):
            for i, (wanted, got) in enumerate(zip(expected, batch, strict=True)):
                if not np.isfinite(got).all():
                    raise DataError(
                        f"output {i} must be finite for every calibration sample, as it is in "
                        "floats, got others in integers; leave the layers before it in floats"
                    )
                if isinstance(wanted, _Decisions):
                    moved[i].append(_ratios(got, wanted.pairs) - wanted.ratios)
                else:
                    squares[i] += np.square(got - wanted).sum(), np.square(wanted).sum()
        shares = [
            self._changed(i, moved[i]) if decides else self._error(squares[i])
            for i, decides in enumerate(self._deciding)
        ]
        return max(shares, default=0.0)

    def _error(self, squares: np.ndarray) -> float:
        return float(squares[0] / (squares[1] or 1.0)) / self._limits.error

    def _changed(self, output: int, moved: Sequence[np.ndarray]) -> float:
        found = [batch[output] for batch in self._expected]
        decisions = [one for one in found if isinstance(one, _Decisions)]
        ratios = np.stack([one.ratios for one in decisions])
        sure = np.stack([one.sure for one in decisions])
        return changed_share(ratios, np.stack(moved), sure) / self._limits.changed


def _exact(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float64)


def changed_share(ratios: np.ndarray, moved: np.ndarray, counts: np.ndarray) -> float:
    """Return the expected share of samples of which a row gets another class.

    Args:
        ratios: (samples, rows): logarithms of the ratio of the two likeliest classes, at least 0.
        moved: What they move by on these samples.
        counts: Which rows count.
    """
    close = ratios < _DOUBT
    spread = float(np.sqrt(np.mean(np.square(moved[close])))) if close.any() else 0.0
    if spread == 0.0:
        return 0.0
    same = np.where(counts, 1.0 - ndtr(-ratios / spread), 1.0)
    return float(1.0 - np.prod(same, axis=1).mean())


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Decisions:
    """What the rows of one batch decide.

    Attributes:
        pairs: (rows, 2): the two likeliest classes, the likeliest first.
        ratios: (rows,) float64: the logarithm of their ratio.
        sure: (rows,): whether the first is likelier by the margin.
    """

    pairs: np.ndarray
    ratios: np.ndarray
    sure: np.ndarray

    @classmethod
    def of(cls, likelihoods: np.ndarray) -> _Decisions:
        rows = likelihoods.reshape(-1, likelihoods.shape[-1])
        pairs = np.argpartition(rows, -2, axis=-1)[:, -2:]
        both = np.take_along_axis(rows, pairs, -1)
        pairs = np.take_along_axis(pairs, np.argsort(-both, axis=-1), -1)
        both = np.sort(both, axis=-1)
        sure = both[:, 1] - both[:, 0] >= MARGIN
        return cls(pairs=pairs, ratios=_ratios(rows, pairs), sure=sure)


def _ratios(likelihoods: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    rows = likelihoods.reshape(-1, likelihoods.shape[-1])
    logs = np.log(np.maximum(np.take_along_axis(rows, pairs, -1).astype(np.float64), _LEAST))
    return np.asarray(logs[:, 0] - logs[:, 1])
