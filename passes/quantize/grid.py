"""Uniform grids: which real number each integer of a quantized tensor stands for.

    real = (quantized - zero_point) * scale
    quantized = clip(rint(real / scale) + zero_point, low, high)

in float32, halves rounded to even: bit for bit what ``relax.quantize`` and ONNX's QuantizeLinear
define. Zero always lies on the grid, so that padding and rectifiers stay exact.

Source: B. Jacob et al., "Quantization and training of neural networks for efficient
integer-arithmetic-only inference", CVPR 2018 (arXiv:1712.05877), section 2.1 for the affine form
and the zero that is exact; R. Krishnamoorthi, "Quantizing deep convolutional networks for efficient
inference", arXiv:1806.08342, section 2, for grids by channel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tvmopt.errors import OptionError

# Below it the product of two scales would leave the normal float32 numbers.
LEAST_SCALE = np.float32(2.0**-60)


@dataclass(frozen=True, kw_only=True, slots=True)
class Levels:
    """The integers that a quantized tensor may hold.

    Attributes:
        low: The least of them, at most 0.
        high: The greatest, above ``low``.
        dtype: What stores them, such as ``"int8"``.
    """

    low: int
    high: int
    dtype: str

    @property
    def steps(self) -> int:
        """How many steps lie between the least and the greatest."""
        return self.high - self.low


def unsigned(bits: int) -> Levels:
    """Return 0 to 2^bits - 1; bits: from 2 to 16.

    Raises:
        OptionError: ``bits`` is outside that range.
    """
    _check_bits(bits, 16)
    return Levels(low=0, high=2**bits - 1, dtype="uint8" if bits <= 8 else "uint16")


def signed(bits: int) -> Levels:
    """Return the whole range of a signed integer: -2^(bits-1) to 2^(bits-1) - 1.

    Args:
        bits: From 2 to 16.

    Raises:
        OptionError: ``bits`` is outside that range.
    """
    _check_bits(bits, 16)
    half = 2 ** (bits - 1)
    return Levels(low=-half, high=half - 1, dtype="int8" if bits <= 8 else "int16")


def symmetric(bits: int) -> Levels:
    """Return as many levels below zero as above: 2^(bits-1) - 1, but 64 for 7 bits.

    With 7 bits the aim is not storage: two products of an unsigned byte and a weight of at most 64
    add up to at most 32640, which a signed 16-bit accumulator holds.

    Args:
        bits: From 2 to 16.

    Raises:
        OptionError: ``bits`` is outside that range.
    """
    _check_bits(bits, 16)
    high = 64 if bits == 7 else 2 ** (bits - 1) - 1
    return Levels(low=-high, high=high, dtype="int8" if bits <= 8 else "int16")


def _check_bits(bits: int, most: int) -> None:
    if not 2 <= bits <= most:
        raise OptionError(f"bits must be from 2 to {most}, got {bits!r}")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Grid:
    """Scales and zero points of a tensor: one, or one a channel, or one a group.

    Attributes:
        levels: The integers.
        scale: Positive float32: () for the whole tensor; (c,), one for each index of ``axis``; with
            ``group`` the tensor's shape with ``axis`` divided by ``group``.
        zero_point: int32 in the shape of ``scale``: the integer that stands for 0.
        axis: The axis that scales follow; None where there is one scale.
        group: How many neighbours along ``axis`` share a scale; None where each has its own.
    """

    levels: Levels
    scale: np.ndarray
    zero_point: np.ndarray
    axis: int | None = None
    group: int | None = None

    def quantize(self, x: np.ndarray) -> np.ndarray:
        """Return the nearest integers, in the levels' dtype; x: finite, any shape."""
        x = np.asarray(x, np.float32)
        return self.clip(np.rint(x / self.spread(self.scale, x.shape)), x.shape)

    def clip(self, steps: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Return whole numbers of steps from zero, (shape), as integers within the levels."""
        shifted = steps + self.spread(self.zero_point, shape).astype(steps.dtype)
        return np.clip(shifted, self.levels.low, self.levels.high).astype(self.levels.dtype)

    def dequantize(self, q: np.ndarray) -> np.ndarray:
        """Return the float32 numbers that integers stand for."""
        steps = q.astype(np.int32) - self.spread(self.zero_point, q.shape)
        return steps.astype(np.float32) * self.spread(self.scale, q.shape)

    def round_trip(self, x: np.ndarray) -> np.ndarray:
        """Return the nearest points of the grid, float32."""
        return self.dequantize(self.quantize(x))

    def spread(self, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Return ``values``, shaped as ``scale``, such that they broadcast to a tensor."""
        if self.axis is None:
            return values
        if self.group is not None:
            return np.repeat(values, self.group, self.axis)
        ones = [1] * len(shape)
        ones[self.axis] = -1
        return values.reshape(ones)


def symmetric_grid(
    limit: np.ndarray, levels: Levels, *, axis: int | None = None, group: int | None = None
) -> Grid:
    """Return the grid with zero point 0 whose greatest level is ``limit``.

    Args:
        limit: Non-negative, finite, in the shape that the grid's scales are to have; where it is 0
            the scale is 1.
        levels: The integers.
        axis: See ``Grid``.
        group: See ``Grid``.
    """
    scale = _positive(np.asarray(limit, np.float64) / levels.high)
    return Grid(
        levels=levels,
        scale=scale,
        zero_point=np.zeros_like(scale, np.int32),
        axis=axis,
        group=group,
    )


def affine_grid(
    low: np.ndarray | float,
    high: np.ndarray | float,
    levels: Levels,
    *,
    axis: int | None = None,
    group: int | None = None,
) -> Grid:
    """Return the grid that spans ``low`` to ``high``, widened to hold 0.

    Args:
        low: Finite, in the shape that the grid's scales are to have.
        high: Likewise; at least ``low``.
        levels: The integers.
        axis: See ``Grid``.
        group: See ``Grid``.

    Returns:
        A grid of step (high - low) / (levels.high - levels.low). The zero point is rounded, which
        moves the two ends by at most half a step.
    """
    least = np.minimum(np.asarray(low, np.float64), 0.0)
    scale = _positive((np.maximum(np.asarray(high, np.float64), 0.0) - least) / levels.steps)
    zero = np.rint(levels.low - least / scale.astype(np.float64))
    zero = np.clip(zero, levels.low, levels.high).astype(np.int32)
    return Grid(levels=levels, scale=scale, zero_point=zero, axis=axis, group=group)


def minmax(x: np.ndarray, bits: int) -> np.ndarray:
    """Return ``round((x - min) / (max - min) * (2^bits - 1))``: the asymmetric formula as it is.

    Args:
        x: Finite, any shape, not empty; a constant tensor gives zeros.
        bits: From 2 to 16.

    Returns:
        Integers from 0 to 2^bits - 1. They are those of ``affine_grid(min, max)`` where the range
        holds 0 and 0 lies on the grid; elsewhere that grid is shifted by at most half a step to
        make it so.
    """
    levels = unsigned(bits)
    wide = np.asarray(x, np.float64)
    low, high = wide.min(), wide.max()
    if low == high:
        return np.zeros(wide.shape, levels.dtype)
    return np.rint((wide - low) / (high - low) * levels.high).astype(levels.dtype)


def _positive(scale: np.ndarray) -> np.ndarray:
    return np.where(scale == 0.0, 1.0, np.maximum(scale, LEAST_SCALE)).astype(np.float32)
