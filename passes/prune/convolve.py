"""A convolution of NHWC data by an OHWI weight in NumPy, with its derivatives.

One product of matrices each: of all patches by the weight, of the derivatives by the patches, and,
where the steps are of 1, of all patches of the derivatives by the weight turned over.

Source: none; the definition of the operator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.lib.stride_tricks import as_strided
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
        n, h, w, c = x.shape
        wide = np.zeros((n, top + h + bottom, left + w + right, c), x.dtype)
        wide[:, top : top + h, left : left + w] = x
        return wide

    def inner(self, x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Return padded data of ``shape`` without its border."""
        top, left = self.padding[:2]
        return x[:, top : top + shape[1], left : left + shape[2]]

    def patches(self, x: np.ndarray) -> np.ndarray:
        """Return the patch of each output of padded data, (n * height * width, inputs).

        One copy: neighbouring taps of a row lie side by side in the data, too.
        """
        n, _, _, c = x.shape
        one, down, right, channel = x.strides
        view = as_strided(
            x,
            (n, *self.output, *self.kernel, c),
            (
                *(one, down * self.strides[0], right * self.strides[1]),
                *(down * self.dilation[0], right * self.dilation[1], channel),
            ),
            writeable=False,
        )
        return view.reshape(-1, self.kernel[0] * self.kernel[1] * c)

    def turned(self, data: tuple[int, int]) -> _Taps | None:
        """Return the convolution that takes derivatives by the output to those by the data.

        Args:
            data: Its (height, width).

        Returns:
            None where it steps, or reads nothing but its border in places.
        """
        reach = tuple((k - 1) * d for k, d in zip(self.kernel, self.dilation, strict=True))
        top, left, bottom, right = self.padding
        padding = reach[0] - top, reach[1] - left, reach[0] - bottom, reach[1] - right
        if self.strides != (1, 1) or min(padding) < 0:
            return None
        return replace(self, padding=padding, output=data)

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
    flat, matrix = taps.patches(taps.padded(x)), w.reshape(len(w), -1)
    y = (flat @ matrix.T).reshape(len(x), *taps.output, len(w))

    def back(g: np.ndarray) -> tuple[np.ndarray, ...]:
        across = g.reshape(-1, len(w))
        return _by_data(g, x.shape, w, taps), (across.T @ flat).reshape(w.shape)

    return y, back


def _by_data(g: np.ndarray, shape: tuple[int, ...], w: np.ndarray, taps: _Taps) -> np.ndarray:
    """Return the derivatives by data of a shape from those by the output."""
    turned = taps.turned((shape[1], shape[2]))
    if turned is not None:
        matrix = w[:, ::-1, ::-1].transpose(1, 2, 0, 3).reshape(-1, shape[3])
        return (turned.patches(turned.padded(g)) @ matrix).reshape(shape)
    by_rows = (g.reshape(-1, len(w)) @ w.reshape(len(w), -1)).reshape(*g.shape[:3], *w.shape[1:])
    top, left, bottom, right = taps.padding
    by_x = np.zeros((shape[0], top + shape[1] + bottom, left + shape[2] + right, shape[3]), g.dtype)
    for i, j, below, beside in taps.places():
        by_x[:, below, beside] += by_rows[:, :, :, i, j]
    return taps.inner(by_x, shape)


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
