"""Where the sums of a depthwise convolution of 8-bit integers start, so that float32 holds them.

Source: none; derived here.
"""

from __future__ import annotations

import numpy as np

from tvmopt.kernels.conv_site import ConvSite

EXACT_SUMS = 2**24  # every integer up to this magnitude is a float32


def split_bias(
    site: ConvSite, weight: np.ndarray, bias: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return what sums over 8-bit integers start from, and what is added to them at the end.

    Sums from the first part never leave what float32 holds exactly; adding the second, a float32
    itself, rounds once. So the result is the exact sum, rounded to float32.

    Args:
        site: A site of integers.
        weight: (c, kh, kw, 1), integers.
        bias: (c,), integers of less than 2**31.

    Returns:
        Both (c,) float32, the second 0 wherever the first can be the whole bias; None where sums
        are beyond float32's integers without any bias.
    """
    zero = abs(site.zero_point) if site.zero_dtype is None else _largest(site.zero_dtype)
    reach = _largest(site.dtype) + zero
    sums = np.abs(weight.astype(np.int64)).sum((1, 2, 3)) * reach
    whole = bias.astype(np.int64)
    added = np.where(sums + np.abs(whole) <= EXACT_SUMS, 0, whole).astype(np.float32)
    start = whole - added.astype(np.int64)
    if (sums + np.abs(start) > EXACT_SUMS).any():
        return None
    return start.astype(np.float32), added


def pack_start(site: ConvSite, weight: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return what sums start from, as the kernel reads it.

    Args:
        site: A site of integers.
        weight: (c, kh, kw, 1), integers.
        start: (c,), the first part of ``split_bias``.

    Returns:
        (1, c), or with a zero point (1 + kh, c) float32: ``start``, and what each line of taps
        adds to it, times the zero point where that is known at run time alone.
    """
    if not site.shifted:
        return start[None]
    known = site.zero_point if site.zero_dtype is None else 1
    lines = -known * weight[..., 0].astype(np.int64).sum(2)
    return np.concatenate([start[None], lines.T.astype(np.float32)])


def _largest(dtype: str) -> int:
    """Return the largest magnitude of a type's values."""
    info = np.iinfo(dtype)
    return max(int(info.max), -int(info.min))
