"""Sparse weights as lists of blocks of few outputs, for kernels with pixels in the lanes.

A list holds what is not zero of one block's outputs: the weights, and where the word that they
multiply lies behind a pixel's first. The lists of one block of words follow each other.

Source: derived here; E. Elsen et al., "Fast sparse convnets", CVPR 2020, section 3, keep distances
between words instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tvmopt.kernels.conv_site import ConvSite
from tvmopt.kernels.qconv_site import QConvSite, shift
from tvmopt.kernels.sparse_pixels_site import (
    OUTPUTS,
    UNROLL,
    SparsePixelsConfig,
    SparsePixelsSite,
    configs,
    cycles,
)
from tvmopt.kernels.sparse_steps import UINT16_HIGH
from tvmopt.kernels.tile import Tile, panel_columns
from tvmopt.targets.description import CpuTarget


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BlockLists:
    """The blocks of a weight that are not zero, list after list.

    Attributes:
        weights: (steps, outputs, word), float32, or int8 where they came as integers.
        offsets: (steps,), uint16 where that holds them, else int32: words from a pixel's first.
        starts: (depth * lists + 1,), int32: the first step of each list, and their number.
    """

    weights: np.ndarray
    offsets: np.ndarray
    starts: np.ndarray

    @property
    def count(self) -> int:
        """Steps in all."""
        return len(self.offsets)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Best:
    """The best way to leave zeros out.

    Attributes:
        site: What is computed.
        how: How it is cut.
        lists: What is not zero.
        cycles: Predicted, of one core.
        zeros: Share of the blocks that are zero.
    """

    site: SparsePixelsSite
    how: SparsePixelsConfig
    lists: BlockLists
    cycles: float
    zeros: float

    @property
    def note(self) -> str:
        """How many blocks are zero."""
        return f"{self.zeros:.0%} of the {self.how.outputs}x{self.how.bands.word} blocks are 0"


def best(
    conv: ConvSite, weight: np.ndarray, target: CpuTarget, qconv: QConvSite | None = None
) -> Best | None:
    """Return the way of fewest predicted cycles; None if the convolution is not of this kind.

    Args:
        conv: The convolution.
        weight: (o, kh, kw, c), float32, or integers.
        target: The machine.
        qconv: The integer convolution that it is; None for float32.
    """
    found: tuple[float, SparsePixelsConfig, float] | None = None
    for outputs in OUTPUTS:
        for how in configs(conv, outputs, target, None if qconv is None else qconv.largest):
            share = density(weight, how)
            steps = round(share * how.lists * weight[0].size / how.bands.word)
            steps += how.depth * how.lists * (UNROLL - 1) // 2
            site = SparsePixelsSite(conv=conv, steps=steps, index="uint16", qconv=qconv)
            spent = cycles(site, how, target)
            if found is None or spent < found[0]:
                found = spent, how, 1 - share
    if found is None:
        return None
    spent, how, zeros = found
    lists = pack(weight, how)
    site = SparsePixelsSite(
        conv=conv, steps=lists.count, index=str(lists.offsets.dtype), qconv=qconv
    )
    return Best(site=site, how=how, lists=lists, cycles=spent, zeros=zeros)


def density(weight: np.ndarray, how: SparsePixelsConfig) -> float:
    """Return the share of blocks of (o, kh, kw, c) that are not zero."""
    outputs, word = how.outputs, how.bands.word
    rows = len(weight) // outputs * outputs
    cut = weight[:rows].reshape(rows // outputs, outputs, -1, word)
    return float(cut.any((1, 3)).mean())


def pack(weight: np.ndarray, how: SparsePixelsConfig) -> BlockLists:
    """Return the blocks of (o, kh, kw, c) that are not zero.

    Every list is filled up with zeros to whole rounds of ``unroll`` steps; a weight without any
    block keeps a round of zeros, so that no tensor is empty.
    """
    bands = how.bands
    columns = panel_columns(len(weight), Tile(1, how.lanes, how.lanes)).reshape(-1)
    places = bands.places()
    own = np.broadcast_to(np.arange(bands.words) * how.depth // bands.words, places.shape)
    order = np.lexsort((places.reshape(-1), own.reshape(-1)))
    places, own = places.reshape(-1)[order], own.reshape(-1)[order]
    words = weight.reshape(len(weight), len(places), bands.word)[columns][:, order]
    dense = words.reshape(how.lists, how.outputs, len(places), bands.word).transpose(0, 2, 1, 3)
    listed, step = np.nonzero(dense.any((2, 3)))
    number = own[step] * how.lists + listed
    order = np.argsort(number, kind="stable")
    listed, step, number = listed[order], step[order], number[order]
    counts = np.bincount(number, minlength=how.depth * how.lists)
    rounds = -(-counts // UNROLL)
    rounds[0] += not counts.any()
    starts = np.concatenate([[0], np.cumsum(rounds * UNROLL)])
    to = starts[number] + np.arange(len(number)) - np.repeat(np.cumsum(counts) - counts, counts)
    stored = np.float32 if how.dot is None else np.int8
    weights = np.zeros((starts[-1], how.outputs, bands.word), stored)
    weights[to] = dense[listed, step]
    offsets = np.zeros(starts[-1], np.uint16 if places.max() <= UINT16_HIGH else np.int32)
    offsets[to] = places[step]
    return BlockLists(weights=weights, offsets=offsets, starts=starts.astype(np.int32))


def pack_bias(
    bias: np.ndarray, weight: np.ndarray, site: QConvSite, how: SparsePixelsConfig
) -> np.ndarray:
    """Return what an integer kernel's sums begin with, (groups * lanes,) int32.

    Args:
        bias: (o,), int64, in units of the sums.
        weight: Integers (o, kh, kw, c).
        site: The convolution.
        how: How it is cut.
    """
    assert how.dot is not None, "sums of float32 begin with 0"
    zero = site.zero_point + shift(site, how.dot)
    start = bias - zero * weight.astype(np.int64).sum((1, 2, 3))
    columns = panel_columns(len(weight), Tile(1, how.lanes, how.lanes))
    return start[columns.reshape(-1)].astype(np.int32)
