"""Where each element of a resized axis comes from, as ONNX's Resize defines it.

Source: the ONNX operator documentation, "Resize", version 19; the formulas are those of its
reference, written for one axis at a time (every mode is separable).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tvmopt.errors import UnsupportedError


@dataclass(frozen=True, kw_only=True, slots=True)
class Resampling:
    """How to resize, for all axes.

    Attributes:
        mode: "nearest", "linear" or "cubic".
        coordinates: ONNX's coordinate_transformation_mode.
        nearest: ONNX's nearest_mode.
        cubic_a: Coefficient of the cubic kernel.
        exclude_outside: Give taps outside the input weight 0 and rescale the others; else they
            repeat the border.
        antialias: Widen the kernel when shrinking.
        extrapolation: Value of elements outside the region of interest.
    """

    mode: str
    coordinates: str
    nearest: str
    cubic_a: float
    exclude_outside: bool
    antialias: bool
    extrapolation: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """How to resize one axis.

    Attributes:
        axis: Its number.
        size: Of the input.
        out: Size of the output.
        scale: As the model says it; out / size where it gives sizes.
        region: Begin and end of the region of interest, as shares of the input.
    """

    axis: int
    size: int
    out: int
    scale: float
    region: tuple[float, float]


def source_coordinates(axis: Axis, how: Resampling) -> np.ndarray:
    """Return the position in the input, (out,) float64, of each element of the output."""
    i = np.arange(axis.out, dtype=np.float64)
    size, scale = axis.size, axis.scale
    length = scale * size  # may differ from out, which is whole
    if how.coordinates == "half_pixel":
        return (i + 0.5) / scale - 0.5
    if how.coordinates == "half_pixel_symmetric":
        return size / 2 * (1 - axis.out / length) + (i + 0.5) / scale - 0.5
    if how.coordinates == "pytorch_half_pixel":
        return (i + 0.5) / scale - 0.5 if length > 1 else np.zeros_like(i)
    if how.coordinates == "align_corners":
        # ONNX's own cases divide by length - 1, which puts the last corner off the last element
        # where length is no whole number; PyTorch, which these models come from, and ONNX Runtime
        # do not.
        return i * (size - 1) / (axis.out - 1) if axis.out > 1 else np.zeros_like(i)
    if how.coordinates == "asymmetric":
        return i / scale
    if how.coordinates == "tf_crop_and_resize":
        begin, end = axis.region
        if axis.out == 1:
            return np.array([(begin + end) * (size - 1) / 2])
        return begin * (size - 1) + i * (end - begin) * (size - 1) / (axis.out - 1)
    raise UnsupportedError(
        "coordinate_transformation_mode must be half_pixel, half_pixel_symmetric, "
        "pytorch_half_pixel, align_corners, asymmetric or tf_crop_and_resize, "
        f"got {how.coordinates!r}"
    )


def nearest_source(axis: Axis, how: Resampling) -> np.ndarray:
    """Return the index in the input, (out,) int64, that each element of the output repeats."""
    x = source_coordinates(axis, how)
    rounding = {
        "round_prefer_floor": lambda: np.ceil(x - 0.5),
        "round_prefer_ceil": lambda: np.floor(x + 0.5),
        "floor": lambda: np.floor(x),
        "ceil": lambda: np.ceil(x),
    }
    if how.nearest not in rounding:
        raise UnsupportedError(f"nearest_mode must be one of {list(rounding)}, got {how.nearest!r}")
    return np.clip(rounding[how.nearest](), 0, axis.size - 1).astype(np.int64)


def weights(axis: Axis, how: Resampling) -> tuple[np.ndarray, np.ndarray]:
    """Return the linear map from the input to the output.

    Returns:
        The matrix, (size, out) float64, and where the output lies outside the region of interest,
        (out,) bool; the columns there are 0.
    """
    x = source_coordinates(axis, how)
    matrix = np.zeros((axis.size, axis.out))
    if how.mode == "nearest":
        matrix[nearest_source(axis, how), np.arange(axis.out)] = 1
    else:
        reach = 1 if how.mode == "linear" else 2
        stretch = min(axis.scale, 1.0) if how.antialias else 1.0
        reach = int(np.ceil(reach / stretch))
        base = np.floor(x).astype(np.int64)
        taps = base[:, None] + np.arange(1 - reach, reach + 1)
        w = _kernel((x[:, None] - taps) * stretch, how)
        if how.exclude_outside:
            w = np.where((taps < 0) | (taps >= axis.size), 0.0, w)
        if how.exclude_outside or how.antialias:
            w = w / w.sum(axis=1, keepdims=True)
        np.add.at(matrix, (np.clip(taps, 0, axis.size - 1), np.arange(axis.out)[:, None]), w)
    outside = np.zeros(axis.out, bool)
    if how.coordinates == "tf_crop_and_resize":
        outside = (x < 0) | (x > axis.size - 1)
        matrix[:, outside] = 0
    return matrix, outside


def _kernel(distance: np.ndarray, how: Resampling) -> np.ndarray:
    d = np.abs(distance)
    if how.mode == "linear":
        return np.maximum(0.0, 1.0 - d)
    if how.mode != "cubic":
        raise UnsupportedError(f"mode must be nearest, linear or cubic, got {how.mode!r}")
    a = how.cubic_a
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))
