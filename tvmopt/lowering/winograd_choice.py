"""Decide where Winograd's convolution is used: where it is predicted faster and stays accurate."""

from __future__ import annotations

import numpy as np

from tvmopt.kernels import conv, winograd
from tvmopt.kernels.conv_site import ConvSite
from tvmopt.kernels.winograd_stages import WinogradConfig
from tvmopt.kernels.winograd_transforms import INPUT_TRANSFORM, OUTPUT_TRANSFORM, transform_weight
from tvmopt.targets.description import CpuTarget

MAX_ERROR = 1e-4  # of the layer's largest output
TILES = 8  # tiles of random activations that the error is measured on
SEED = 0


def choose_winograd(
    site: ConvSite, weight: np.ndarray, target: CpuTarget
) -> tuple[WinogradConfig | None, str]:
    """Return the Winograd form to use, or None for the direct one, and why.

    Args:
        site: The convolution.
        weight: (o, kh, kw, c), float32.
        target: The machine.
    """
    if not winograd.applies(site):
        return None, "not a dense 3x3 convolution of stride 1"
    direct = conv.cycles(site, conv.config(site, target), target)
    options = [winograd.config(site, m, target) for m in (2, 4)]
    ranked = sorted(options, key=lambda how: winograd.cycles(site, how, target))
    reason = "the direct form is predicted faster"
    for how in ranked:
        if winograd.cycles(site, how, target) >= direct:
            break
        error = winograd_error(weight, how.m)
        if error < MAX_ERROR:
            return how, f"error {error:.1e} of the peak on its own weights"
        reason = f"F({how.m}, 3) errs by {error:.1e} of the peak, more than {MAX_ERROR:.0e}"
    return None, reason


def winograd_error(weight: np.ndarray, m: int) -> float:
    """Return the largest error of F(m, 3) in float32, as a share of the largest output.

    Measured on random activations, half normal as behind a ReLU; inf or NaN where it overflows.

    Args:
        weight: (o, 3, 3, c), float32.
        m: Edge of an output tile, 2 or 4.
    """
    edge, channels = m + 2, weight.shape[3]
    rng = np.random.default_rng(SEED)
    data = np.abs(rng.standard_normal((TILES, edge, edge, channels))).astype(np.float32)
    left = INPUT_TRANSFORM[m].astype(np.float32)
    back = OUTPUT_TRANSFORM[m].astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        moved = np.einsum("ai,tijc,bj->abtc", left, data, left, optimize=True)
        places = moved.reshape(edge * edge, TILES, channels)
        products = (places @ transform_weight(weight, m)).reshape(edge, edge, TILES, -1)
        got = np.einsum("ia,abto,jb->tijo", back, products, back, optimize=True)
    windows = np.lib.stride_tricks.sliding_window_view(data.astype(np.float64), (3, 3), (1, 2))
    taps = weight.astype(np.float64).transpose(3, 1, 2, 0).reshape(9 * channels, -1)
    exact = windows.reshape(TILES, m, m, 9 * channels) @ taps
    return float(np.abs(got - exact).max() / max(np.abs(exact).max(), np.finfo(np.float32).tiny))
