"""Where a float weight has enough blocks of zeros to leave them out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import tirx

from tvmopt.kernels import block_lists, sparse_conv
from tvmopt.kernels.conv_site import ConvSite
from tvmopt.kernels.sparse_conv import SparseConvSite
from tvmopt.kernels.sparse_pixels import sparse_pixels
from tvmopt.lowering.kernel_cache import KernelCache

SPARSE = 0.25  # share of zeros below which no list of blocks is worth looking at


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SparseChoice:
    """A kernel that leaves zeros out.

    Attributes:
        kernel: The PrimFunc.
        packed: Its constants: weights, offsets, and where each panel or list begins.
        note: How many blocks are zero.
    """

    kernel: tirx.PrimFunc
    packed: tuple[np.ndarray, ...]
    note: str


def choose_sparse(
    conv: ConvSite, weight: np.ndarray, dense: tirx.PrimFunc, kernels: KernelCache
) -> SparseChoice | None:
    """Return the kernel over blocks that are not zero, where it is predicted to be faster.

    Args:
        conv: The convolution; a product is that of one line by 1x1.
        weight: (o, kh, kw, c), float32.
        dense: The kernel for any weights; its prediction is the one to beat.
        kernels: Makes kernels.
    """
    if conv.groups != 1 or conv.planar or np.mean(weight == 0) < SPARSE:
        return None
    target, least = kernels.target, float(dense.attrs["tvmopt.cycles"])
    found: SparseChoice | None = None
    kind = "gemm" if conv.pointwise else "conv"
    for width in sparse_conv.WIDTHS:
        if sparse_conv.config(conv, width, 1, target) is None:
            continue
        steps = sparse_conv.pack(weight, conv, width, target)
        how = sparse_conv.config(conv, width, steps.count, target)
        assert how is not None, "the number of steps decides nothing about the width"
        site = SparseConvSite(conv=conv, steps=steps.count, index=str(steps.offsets.dtype))
        cycles = sparse_conv.cycles(site, how, target)
        if cycles >= least:
            continue
        least = cycles
        zeros = 1 - steps.count * how.tile.columns / weight.size
        found = SparseChoice(
            kernel=kernels.get(sparse_conv.sparse_conv, f"sparse_{kind}", site, how, cycles),
            packed=(steps.weights, steps.offsets, steps.panels),
            note=f"{zeros:.0%} of the {how.tile.columns}x1 blocks are 0",
        )
    pixels = block_lists.best(conv, weight, target)
    if pixels is None or pixels.cycles >= least:
        return found
    kernel = kernels.get(
        sparse_pixels, f"sparse_{kind}_pixels", pixels.site, pixels.how, pixels.cycles
    )
    lists = pixels.lists
    return SparseChoice(
        kernel=kernel,
        packed=(lists.weights, lists.offsets, lists.starts),
        note=pixels.note,
    )
