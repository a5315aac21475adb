"""Decide whether two engines computed the same.

Engines sum in different orders, so floats differ by some rounding. Where they differ by more, both
are compared with the model in float64: a model may be so ill-conditioned that float32 gives no
better, and then neither engine is to blame.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

# Of the output's peak. float32 sums of some thousand terms in another order differ by about
# sqrt(1000) * 2**-24 = 2e-6 a layer, over tens of layers.
TOLERANCE = 1e-4

# How much farther than the rival from float64: rounding is random, so of two engines that are
# equally good one is easily somewhat farther.
FACTOR = 2.0

Arrays = Mapping[str, np.ndarray]


class NoReferenceError(Exception):
    """The model cannot be evaluated in float64; the message says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """How one output compares.

    Attributes:
        name: Of the output.
        ok: Whether it is right.
        error: Largest difference from the rival, as a share of the rival's peak; infinite where
            there is no difference to take.
        reason: What is wrong with it, or what makes a larger error right; empty otherwise.
    """

    name: str
    ok: bool
    error: float
    reason: str = ""


def judge(ours: Arrays, rival: Arrays, reference: Callable[[], Arrays]) -> list[Verdict]:
    """Compare all outputs by name.

    Args:
        ours: Outputs under test.
        rival: Outputs of the engine that is trusted.
        reference: Evaluates the model in float64; called once, and only if some error is large.
            May raise ``NoReferenceError``.

    Returns:
        A verdict for each name that either side has.
    """
    verdicts = {name: _compare(name, ours.get(name), rival.get(name)) for name in {**rival, **ours}}
    doubtful = [name for name, verdict in verdicts.items() if verdict is None]
    if doubtful:
        verdicts |= _settle(doubtful, ours, rival, reference)
    return [verdict for verdict in verdicts.values() if verdict is not None]


def relative_error(values: np.ndarray, reference: np.ndarray) -> float:
    """Return the largest difference as a share of the reference's largest magnitude.

    Infinities and NaNs must be the same ones in the same places, else the error is infinite; so it
    is where the reference is 0 everywhere and ``values``, of the same shape, is not.
    """
    a, b = values.astype(np.float64), reference.astype(np.float64)
    finite = np.isfinite(b)
    if (
        not np.array_equal(a[~finite], b[~finite], equal_nan=True)
        or not np.isfinite(a[finite]).all()
    ):
        return np.inf
    difference = float(np.max(np.abs(a[finite] - b[finite]), initial=0.0))
    peak = float(np.max(np.abs(b[finite]), initial=0.0))
    return difference / peak if peak else (np.inf if difference else 0.0)


def _compare(name: str, ours: np.ndarray | None, rival: np.ndarray | None) -> Verdict | None:
    """Return the verdict, or None if only a reference can tell."""
    if ours is None or rival is None:
        who = "tvmopt" if ours is None else "ONNX Runtime"
        return Verdict(name=name, ok=False, error=np.inf, reason=f"{who} has no such output")
    if ours.shape != rival.shape or ours.dtype != rival.dtype:
        reason = f"must be {_kind(rival)}, got {_kind(ours)}"
        return Verdict(name=name, ok=False, error=np.inf, reason=reason)
    error = relative_error(ours, rival)
    if rival.dtype.kind != "f":
        wrong = int(np.count_nonzero(ours != rival))
        reason = f"{wrong} of {rival.size} integers differ" if wrong else ""
        return Verdict(name=name, ok=not wrong, error=error, reason=reason)
    return Verdict(name=name, ok=True, error=error) if error <= TOLERANCE else None


def _kind(array: np.ndarray) -> str:
    return f"{array.dtype} {array.shape}"


def _settle(
    names: list[str], ours: Arrays, rival: Arrays, reference: Callable[[], Arrays]
) -> dict[str, Verdict]:
    try:
        exact = reference()
    except NoReferenceError as err:
        return {name: _unsettled(name, ours[name], rival[name], str(err)) for name in names}
    return {name: _against(name, ours[name], rival[name], exact[name]) for name in names}


def _unsettled(name: str, ours: np.ndarray, rival: np.ndarray, why: str) -> Verdict:
    error = relative_error(ours, rival)
    reason = f"error {error:.1e} of the peak, above {TOLERANCE:.0e}, and no float64 result: {why}"
    return Verdict(name=name, ok=False, error=error, reason=reason)


def _against(name: str, ours: np.ndarray, rival: np.ndarray, exact: np.ndarray) -> Verdict:
    error = relative_error(ours, rival)
    if exact.shape != ours.shape:
        return _unsettled(name, ours, rival, f"its shape is {exact.shape}, not {ours.shape}")
    own, theirs = relative_error(ours, exact), relative_error(rival, exact)
    said = f"from float64: tvmopt {own:.1e}, ONNX Runtime {theirs:.1e}"
    # Rounding takes each its own way, so neither can be near the other and far from the truth.
    if min(own, theirs) > FACTOR * error:
        return _unsettled(name, ours, rival, f"it contradicts both ({said})")
    return Verdict(
        name=name, ok=np.isfinite(own) and own <= FACTOR * theirs, error=error, reason=said
    )
