"""A convolution of NHWC data by an OHWI weight in NumPy, with its derivatives.

Source: none; the definition of the operator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from tvm import relax

from tvmopt import ir

Result = tuple[np.ndarray, Callable[[np.ndarray], tuple[np.ndarray, ...]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Taps:
    """Where the taps of a convolution read.

    Attributes:
        kernel: (height, width).
        strides: (vertical, horizontal).
        padding: (top, left, bottom, right).
        dilation: (vertical, horizontal).
        output: (height, width).
    """

    kernel: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    output: tuple[int, int]

    def padded(self, x: np.ndarray) -> np.ndarray:
        """Return NHWC data with its border of zeros."""
        top, left, bottom, right = self.padding
        if not any(self.padding):
            return x
        return np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))

    def inner(self, x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Return padded data of ``shape`` without its border."""
        top, left = self.padding[:2]
        return x[:, top : top + shape[1], left : left + shape[2]]

    def places(self) -> Iterator[tuple[int, int, slice, slice]]:
        """Yield each tap, and the rows and columns of padded data that it reads."""
        for i in range(self.kernel[0]):
            for j in range(self.kernel[1]):
                starts = i * self.dilation[0], j * self.dilation[1]
                down, right = (
                    slice(start, start + (count - 1) * step + 1, step)
                    for start, count, step in zip(starts, self.output, self.strides, strict=True)
                )
                yield i, j, down, right


def conv2d(call: relax.Call) -> Callable[..., Result] | None:
    """Return how a convolution is computed; None for groups of channels, or other layouts."""
    attrs, data = call.attrs, ir.static_shape(call.args[0])
    if (attrs.data_layout, attrs.kernel_layout, attrs.out_layout) != ("NHWC", "OHWI", "NHWC"):
        return None
    weight, output = ir.static_shape(call.args[1]), ir.static_shape(call)
    taps = _Taps(
        kernel=(weight[1], weight[2]),
        strides=ir.pair(attrs.strides),
        padding=ir.sides(attrs.padding),
        dilation=ir.pair(attrs.dilation),
        output=(output[1], output[2]),
    )
    if int(attrs.groups) == 1:
        return lambda x, w: _full(x, w, taps)
    if int(attrs.groups) == data[3] == weight[0] and weight[3] == 1:
        return lambda x, w: _depthwise(x, w, taps)
    return None


def _full(x: np.ndarray, w: np.ndarray, taps: _Taps) -> Result:
    outputs, kh, kw, c = w.shape
    wide = taps.padded(x)
    rows = np.empty((len(x), *taps.output, kh, kw, c), x.dtype)
    for i, j, down, right in taps.places():
        rows[:, :, :, i, j] = wide[:, down, right]
    flat, matrix = rows.reshape(-1, kh * kw * c), w.reshape(outputs, -1)
    y = (flat @ matrix.T).reshape(len(x), *taps.output, outputs)

    def back(g: np.ndarray) -> tuple[np.ndarray, ...]:
        across = g.reshape(-1, outputs)
        by_rows = (across @ matrix).reshape(rows.shape)
        by_x = np.zeros_like(wide)
        for i, j, down, right in taps.places():
            by_x[:, down, right] += by_rows[:, :, :, i, j]
        return taps.inner(by_x, x.shape), (across.T @ flat).reshape(w.shape)

    return y, back


def _depthwise(x: np.ndarray, w: np.ndarray, taps: _Taps) -> Result:
    wide = taps.padded(x)
    y = np.zeros((len(x), *taps.output, len(w)), x.dtype)
    for i, j, down, right in taps.places():
        y += wide[:, down, right] * w[:, i, j, 0]

    def back(g: np.ndarray) -> tuple[np.ndarray, ...]:
        by_x, by_w = np.zeros_like(wide), np.zeros_like(w)
        for i, j, down, right in taps.places():
            by_x[:, down, right] += g * w[:, i, j, 0]
            by_w[:, i, j, 0] = (wide[:, down, right] * g).sum(axis=(0, 1, 2))
        return taps.inner(by_x, x.shape), by_w

    return y, back
