"""Make plausible inputs for a model of the zoo.

A model's dtypes come from its file; what the values mean comes from the ``inputs`` table of its row
in ``catalogue.toml``. Floating-point inputs that the catalogue says nothing about are standard
normal; of anything else a wrong guess would be out of range, so that is an error.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx

from benchmarks.zoo.catalogue import CATALOGUE

SAMPLE_RATE_HZ = 16_000

Kind = Literal["normal", "text", "audio", "integers", "tokens", "mask", "constant", "one_hot"]


class InputError(Exception):
    """An input has no shape, or nothing says what its values mean."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InputSpec:
    """What the values of one input are.

    Attributes:
        kind: ``normal``: independent, with this ``mean`` and standard deviation ``scale``.
            ``text``: lines of dark strokes on a white page (..., h, w), in about [-1, 1] times
            ``scale``. ``audio``: a voice-like tone in noise along the longest axis, with the peak
            ``scale``.
            ``integers``: uniform in [``low``, ``high``). ``tokens``: the same, but 0 (padding) in
            the last quarter of each row. ``mask``: 1, and 0 in that last quarter.
            ``constant``: ``value`` everywhere. ``one_hot``: one 1 along the last axis.
        mean: See ``kind``; likewise all that follow.
        scale: Greater than 0.
        low: Least integer.
        high: First integer that is too large.
        value: Of a constant.
    """

    kind: Kind
    mean: float = 0.0
    scale: float = 1.0
    low: int = 0
    high: int = 2
    value: int = 0


def make_inputs(
    model_path: str | Path, shapes: Mapping[str, tuple[int, ...]], seed: int
) -> dict[str, np.ndarray]:
    """Return an array for each input of a model, the same for the same arguments.

    Args:
        model_path: ONNX file; its stem is the model's id in the catalogue, if it has one.
        shapes: Shape by input name, for every input.
        seed: Of the random generator, at least 0.

    Returns:
        By input name, in the model's order, with the model's dtypes and the shapes asked for.

    Raises:
        InputError: ``shapes`` lacks an input, or an input that is not floating point is not in
            the catalogue.
    """
    path = Path(model_path)
    specs = load_specs(path.stem)
    rng = np.random.default_rng(seed)
    inputs = {}
    for name, dtype in _input_dtypes(path).items():
        if name not in shapes:
            raise InputError(f"{path.name}: shapes must hold input {name!r}, got {list(shapes)}")
        spec = specs.get(name)
        if spec is None and not np.issubdtype(dtype, np.floating):
            raise InputError(
                f"{path.name}: input {name!r} ({dtype}) must have a kind in catalogue.toml"
            )
        inputs[name] = _draw(spec or InputSpec(kind="normal"), shapes[name], rng).astype(dtype)
    return inputs


def load_specs(model_id: str) -> dict[str, InputSpec]:
    """Return the input specs of a model by input name, empty if the catalogue has no such model."""
    rows = tomllib.loads(CATALOGUE.read_text(encoding="utf-8"))["models"]
    inputs = rows.get(model_id, {}).get("inputs", {})
    return {name: InputSpec(**spec) for name, spec in inputs.items()}


def _input_dtypes(path: Path) -> dict[str, np.dtype]:
    """Return the dtypes of a model's inputs by name, without those that have a default."""
    graph = onnx.load(path, load_external_data=False).graph
    constants = {constant.name for constant in graph.initializer}
    return {
        value.name: np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
        for value in graph.input
        if value.name not in constants
    }


def _draw(spec: InputSpec, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    match spec.kind:
        case "normal":
            return rng.normal(spec.mean, spec.scale, shape)
        case "text":
            return _page(shape, rng) * spec.scale
        case "audio":
            return _voice(shape, rng) * spec.scale
        case "integers":
            return rng.integers(spec.low, spec.high, shape)
        case "tokens":
            return rng.integers(spec.low, spec.high, shape) * _mask(shape)
        case "mask":
            return _mask(shape)
        case "constant":
            return np.full(shape, spec.value)
        case "one_hot":
            return np.eye(shape[-1])[rng.integers(0, shape[-1], shape[:-1])]


def _mask(shape: tuple[int, ...]) -> np.ndarray:
    """Return ones (..., s) of which the last quarter along the last axis is zero."""
    length = shape[-1]
    return np.broadcast_to(np.arange(length) < length - length // 4, shape)


def _page(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return a page (..., h, w) with a line of text every 48 pixels, black -1 and white 1.

    A text detector answers it; to independent noise it says 0 everywhere, which tests little.
    """
    pitch, height, stroke = 48, 24, 4
    h, w = shape[-2:]
    ink = np.kron(rng.integers(0, 2, (h // stroke + 1, w // stroke + 1)), np.ones((stroke, stroke)))
    line = np.abs(np.arange(h) % pitch - pitch // 2) < height // 2
    column = np.abs(np.arange(w) - w / 2) < 0.4 * w
    page = 1 - 2 * ink[:h, :w] * (line[:, None] & column)
    return page + rng.normal(0, 0.05, shape)


def _voice(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return a gliding harmonic tone in noise along the longest axis, in [-1, 1]."""
    axis = int(np.argmax(shape))
    rows = (*shape[:axis], *shape[axis + 1 :], 1)
    time_s = np.arange(shape[axis]) / SAMPLE_RATE_HZ
    pitch_hz = rng.uniform(100, 300, rows) * (1 + 0.1 * np.sin(2 * np.pi * 3 * time_s))
    phase = 2 * np.pi * np.cumsum(pitch_hz, axis=-1) / SAMPLE_RATE_HZ
    tone = np.sum([np.sin(k * phase + rng.uniform(0, 6, rows)) / k for k in range(1, 9)], axis=0)
    voice = tone + rng.normal(0, 0.1, tone.shape)
    voice /= np.abs(voice).max(axis=-1, keepdims=True)
    return np.moveaxis(voice, -1, axis)
