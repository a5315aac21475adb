"""Decide where Winograd's convolution along a line is used: where it is faster and accurate."""

from __future__ import annotations

import numpy as np

from tvmopt.kernels import conv, winograd_line
from tvmopt.kernels.conv_site import ConvSite
from tvmopt.kernels.toom_cook import transforms
from tvmopt.kernels.winograd_line import LineConfig
from tvmopt.lowering.winograd_choice import MAX_ERROR, SEED, TILES
from tvmopt.targets.description import CpuTarget


def choose_winograd_line(
    site: ConvSite, weight: np.ndarray, target: CpuTarget
) -> tuple[LineConfig | None, str]:
    """Return the form along a line to use, or None for the direct one, and why.

    Args:
        site: The convolution.
        weight: (o, kh, kw, c), float32.
        target: The machine.
    """
    if not winograd_line.applies(site):
        return None, "not a dense convolution of stride 1 along one axis"
    direct = conv.cycles(site, conv.config(site, target), target)
    options = [winograd_line.config(site, m, target) for m in winograd_line.EDGES]
    reason = "the direct form is predicted faster"
    for how in sorted(options, key=lambda how: winograd_line.cycles(site, how, target)):
        if winograd_line.cycles(site, how, target) >= direct:
            break
        error = line_error(weight, how.m, how.taps)
        if error < MAX_ERROR:
            return how, f"error {error:.1e} of the peak on its own weights"
        form = f"F({how.m}, {how.taps})"
        reason = f"{form} errs by {error:.1e} of the peak, more than {MAX_ERROR:.0e}"
    return None, reason


def line_error(weight: np.ndarray, m: int, taps: int) -> float:
    """Return the largest error of F(m, taps) in float32, as a share of the largest output.

    Measured on random activations, half normal as behind a ReLU; inf or NaN where it overflows.

    Args:
        weight: (o, kh, kw, c), float32, one of kh and kw is 1.
        m: Output pixels of a tile.
        taps: Taps of a segment of the kernel.
    """
    outputs, channels = weight.shape[0], weight.shape[3]
    line = weight.reshape(outputs, -1, channels)
    segments, places = -(-line.shape[1] // taps), m + taps - 1
    rng = np.random.default_rng(SEED)
    length = (TILES + segments - 2) * m + places
    data = np.abs(rng.standard_normal((length, channels))).astype(np.float32)
    tiles = np.lib.stride_tricks.sliding_window_view(data, places, 0)[::m]
    matrices = transforms(m, taps)
    left, back = matrices.input.astype(np.float32), matrices.output.astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        moved = np.ascontiguousarray(np.einsum("pn,tcn->ptc", left, tiles, optimize=True))
        rows = np.lib.stride_tricks.sliding_window_view(moved, segments, 1).transpose(0, 1, 3, 2)
        flat = rows.reshape(places, TILES, segments * channels)
        products = flat @ winograd_line.transform_weight(weight, m, taps)
        got = np.einsum("mp,pto->tmo", back, products, optimize=True)
    windows = np.lib.stride_tricks.sliding_window_view(data.astype(np.float64), line.shape[1], 0)
    seen = windows[: TILES * m].transpose(0, 2, 1).reshape(TILES * m, -1)
    exact = seen @ line.astype(np.float64).reshape(outputs, -1).T
    worst = np.abs(got.reshape(exact.shape) - exact).max()
    return float(worst / max(np.abs(exact).max(), np.finfo(np.float32).tiny))
