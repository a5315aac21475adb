"""The kernel of an integer convolution: direct, or Winograd's form where it is faster."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from tvm import tirx

from tvmopt.kernels import qconv, qwinograd
from tvmopt.kernels.qconv import QConvSite
from tvmopt.lowering.kernel_cache import KernelCache

TYPES = {"uint8": "qu8", "int8": "qs8"}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Chosen:
    """A kernel for a site.

    Attributes:
        kernel: The PrimFunc.
        packed: Weights and bias as it reads them.
        note: Why this kernel; empty where there was no choice.
    """

    kernel: tirx.PrimFunc
    packed: tuple[np.ndarray, ...]
    note: str = ""


def choose_kernel(
    site: QConvSite, weight: np.ndarray, bias: np.ndarray, kernels: KernelCache
) -> Chosen:
    """Return the kernel with the fewest predicted cycles; all of them are exact.

    Args:
        site: The convolution.
        weight: Integers (o, kh, kw, c / groups).
        bias: (o,), int64, in units of the sums.
        kernels: Makes them.
    """
    target, types = kernels.target, f"{TYPES[site.dtype]}_qc{weight_bits(site.largest)}w"
    direct = qconv.config(site, target)
    cycles = qconv.cycles(site, direct, target)
    ranked = sorted(
        (qwinograd.cycles(site, how, target), how.m, how)
        for how in (qwinograd.config(site, m, target) for m in _edges(site, weight, kernels))
    )
    if ranked and ranked[0][0] < cycles:
        cycles, m, how = ranked[0]
        start = bias - site.zero_point * weight.astype(np.int64).sum((1, 2, 3))
        generator = partial(qwinograd.qwinograd, target=target)
        return Chosen(
            kernel=kernels.get(generator, "winograd", site, how, cycles, types),
            packed=(qwinograd.pack(weight, how, target), start.astype(np.int32)),
            note=f"F({m}, 3) in 16 bits, exact",
        )
    kind = f"{direct.dot.key}_{'gemm' if site.conv.pointwise else 'conv'}"
    return Chosen(
        kernel=kernels.get(qconv.qconv, kind, site, direct, cycles, types),
        packed=(
            qconv.pack(weight, site, direct),
            qconv.pack_bias(bias, weight, site, direct),
        ),
    )


def weight_bits(largest: int) -> int:
    """Return the least width of signed weights up to that magnitude, bits."""
    return max(2, int(largest - 1).bit_length() + 1) if largest else 2


def _edges(site: QConvSite, weight: np.ndarray, kernels: KernelCache) -> list[int]:
    """Return the edges of output tiles that Winograd's form may have."""
    if not kernels.options.winograd or weight.shape[1:3] != (3, 3):
        return []
    return [m for m in (2, 4) if qwinograd.applies(site, weight, m)]
