"""Quantize a model with ONNX Runtime's own tools, at the settings whose results are exact here.

On CPUs without a dot product of bytes, ONNX Runtime multiplies u8 by s8 into 16 bits that saturate.
With weights of 7 bits (``reduce_range``), or with u8 weights, nothing saturates: those are the
settings that may be compared. The models are made at run time, into the cache.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import version_converter

from benchmarks.zoo.cache import CACHE

FOLDER = CACHE / "rivals"
LEAST_OPSET = 13  # in which quantize nodes may have a scale for each channel
GROUP = 32  # weights that share a scale, of weight-only quantization

Arrays = Mapping[str, np.ndarray]
Kind = Literal[
    "float",
    "twin",
    "qdq-u8s7",
    "qop-u8s7",
    "qdq-u8u8",
    "dynamic-u8s7",
    "dynamic-u8u8",
    "fused-u8s7",
    "nbits-level4",
    "nbits-level1",
]
# s7: signed weights of 7 bits, u8: unsigned ones of 8; a8 and a32: what the activations are.
_TITLES = {
    "float": "as it is",
    "twin": "float32",
    "qdq-u8s7": "QDQ s7",
    "qop-u8s7": "QOp s7",
    "qdq-u8u8": "QDQ u8",
    "dynamic-u8s7": "dynamic s7",
    "dynamic-u8u8": "dynamic u8",
    "fused-u8s7": "dynamic fused s7",
    "nbits-level4": "4-bit a8",
    "nbits-level1": "4-bit a32",
}
_ENGINES = {"onnxruntime": "ORT", "openvino": "OV"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """A rival's engine and how its model is made."""

    engine: str
    kind: Kind

    @property
    def title(self) -> str:
        """How a table names it, in few letters."""
        return f"{_ENGINES[self.engine]} {_TITLES[self.kind]}"


def make(
    kind: Kind,
    path: Path,
    shapes: Mapping[str, Sequence[int]],
    samples: Sequence[Arrays],
) -> Path:
    """Return a rival's model, after making it if need be.

    Args:
        kind: How to quantize.
        path: The float model.
        shapes: Of its inputs; they are fixed, since the rivals' optimizers like that.
        samples: Feeds to calibrate with; only static kinds look at them.
    """
    if kind == "float":
        return path
    import onnxruntime

    used = samples if kind.startswith(("qdq", "qop")) else ()
    key = _key(kind, path, shapes, used, onnxruntime.__version__)
    out = FOLDER / f"{path.stem}-{kind}-{key}.onnx"
    if not out.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
            prepared, made = Path(folder, "prepared.onnx"), Path(folder, "made.onnx")
            prepare = _fuse if kind.startswith("fused") else _prepare
            prepare(path, shapes, prepared)
            _quantize(kind, prepared, made, used)
            made.replace(out)
    return out


def _prepare(path: Path, shapes: Mapping[str, Sequence[int]], out: Path) -> None:
    """Fix shapes and fold what can be folded, as ONNX Runtime's guide asks for."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    model = onnx.load(path)
    for value in model.graph.input:
        for dim, size in zip(
            value.type.tensor_type.shape.dim, shapes.get(value.name, ()), strict=False
        ):
            dim.dim_value = size
    # What a file says of inner shapes was said of open ones.
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    if max(opset.version for opset in model.opset_import if not opset.domain) < LEAST_OPSET:
        model = version_converter.convert_version(model, LEAST_OPSET)
    fixed = out.with_name("fixed.onnx")
    onnx.save(model, fixed)
    quant_pre_process(str(fixed), str(out), skip_symbolic_shape=True)


def _fuse(path: Path, _shapes: Mapping[str, Sequence[int]], out: Path) -> None:
    """Make the operators of transformers single nodes, attention among them."""
    from onnxruntime.transformers.optimizer import optimize_model

    optimize_model(str(path), model_type="bert", opt_level=0).save_model_to_file(str(out))


def _quantize(kind: Kind, path: Path, out: Path, samples: Sequence[Arrays]) -> None:
    from onnxruntime import quantization as q

    u8, s8 = q.QuantType.QUInt8, q.QuantType.QInt8
    if kind.startswith("nbits"):
        return _quantize_weights(path, out, level=int(kind[-1]))
    narrow = kind.endswith("s7")
    if kind.startswith(("dynamic", "fused")):
        q.quantize_dynamic(
            path,
            out,
            per_channel=narrow,
            reduce_range=narrow,
            weight_type=s8 if narrow else u8,
            # Of what lies behind the fused nodes, whose types the standard does not know.
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )
        return None
    form = q.QuantFormat.QOperator if kind.startswith("qop") else q.QuantFormat.QDQ
    q.quantize_static(
        path,
        out,
        _Reader(samples),
        quant_format=form,
        per_channel=narrow,
        reduce_range=narrow,
        activation_type=u8,
        weight_type=s8 if narrow else u8,
        calibrate_method=q.CalibrationMethod.MinMax,
        nodes_to_exclude=_batch_norms(path) if narrow and kind.startswith("qdq") else [],
    )
    return None


def _batch_norms(path: Path) -> list[str]:
    """Return the batch norms that are left, whose scales by channel get a wrong axis."""
    nodes = onnx.load(path, load_external_data=False).graph.node
    return [node.name for node in nodes if node.op_type == "BatchNormalization"]


def _quantize_weights(path: Path, out: Path, level: int) -> None:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(
        onnx.load(path), bits=4, block_size=GROUP, is_symmetric=True, accuracy_level=level
    )
    quantizer.process()
    onnx.save(quantizer.model.model, out)


class _Reader:
    """Hands one feed after the other to ``quantize_static``, which asks for nothing else."""

    def __init__(self, samples: Sequence[Arrays]) -> None:
        self._feeds: Iterator[Any] = iter([dict(feed) for feed in samples])

    def get_next(self) -> Any:
        """Return the next feed, or None behind the last."""
        return next(self._feeds, None)


def _key(
    kind: str,
    path: Path,
    shapes: Mapping[str, Sequence[int]],
    samples: Sequence[Arrays],
    version: str,
) -> str:
    listed = {name: list(shape) for name, shape in shapes.items()}
    digest = hashlib.sha256(f"{kind} {version} {listed} {GROUP}".encode())
    digest.update(path.read_bytes())
    for feed in samples:
        for name, array in feed.items():
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]
