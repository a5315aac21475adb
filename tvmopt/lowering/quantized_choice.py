"""The kernel of an integer convolution: the one with the fewest predicted cycles; all are exact."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import numpy as np
from tvm import tirx

from tvmopt.kernels import block_lists, nibbles, qconv, qwinograd, sparse_qconv
from tvmopt.kernels.dot import Dot, chained_dot, choose_dot
from tvmopt.kernels.panel_steps import PanelSteps
from tvmopt.kernels.qconv_chained import best
from tvmopt.kernels.qconv_site import QConvSite
from tvmopt.kernels.sparse_pixels import sparse_pixels
from tvmopt.kernels.sparse_qconv import SparseQConvSite
from tvmopt.kernels.winograd_stages import WinogradConfig
from tvmopt.lowering.kernel_cache import KernelCache
from tvmopt.lowering.sparse_choice import SPARSE
from tvmopt.targets.description import CpuTarget

TYPES = {"uint8": "qu8", "int8": "qs8"}
WORDS = {"int16": "qs16"}  # what only the direct form reads
MANY_ZEROS = 0.5  # share of zeros from which a list of blocks may be smaller than 4 bits for all
WORD_LARGEST = 129  # least magnitude of a weight that takes 16 bits


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Chosen:
    """A kernel for a site.

    Attributes:
        kernel: The PrimFunc.
        packed: Weights and bias as it reads them.
        cycles: Predicted cycles of one core.
        note: Why this kernel; empty where there was no choice.
    """

    kernel: tirx.PrimFunc
    packed: tuple[np.ndarray, ...]
    cycles: float
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Task:
    """A convolution to find a kernel for; the fields are ``choose_kernel``'s arguments."""

    site: QConvSite
    weight: np.ndarray
    bias: np.ndarray
    kernels: KernelCache
    types: str


# Predicted cycles, and what makes the kernel.
_Candidate = tuple[float, Callable[[], Chosen]]


def choose_kernel(
    site: QConvSite,
    weight: np.ndarray,
    bias: np.ndarray,
    kernels: KernelCache,
    types: str | None = None,
) -> Chosen:
    """Return the kernel with the fewest predicted cycles.

    Args:
        site: The convolution.
        weight: Integers (o, kh, kw, c / groups).
        bias: (o,), int64, in units of the sums.
        kernels: Makes them.
        types: What the kernel reads, for its name; None takes that from the site.
    """
    types = types or f"{(TYPES | WORDS)[site.dtype]}_qc{weight_bits(site.largest)}w"
    task = _Task(site=site, weight=weight, bias=bias, kernels=kernels, types=types)
    if site.dtype in WORDS:
        # Its instruction is that of weights beyond 8 bits: it multiplies words.
        words = replace(site, largest=max(site.largest, WORD_LARGEST))
        return _direct(replace(task, site=words))[1]()
    if kernels.options.smaller and _fits_nibbles(task):
        return _direct(task, packed=True)[1]()
    dense = [_direct(task), *_winograd(task)]
    candidates = [*dense, *_sparse(task, min(cycles for cycles, _ in dense))]
    return min(candidates, key=lambda candidate: candidate[0])[1]()


def weight_bits(largest: int) -> int:
    """Return the least width of signed weights up to that magnitude, bits."""
    return max(2, int(largest - 1).bit_length() + 1) if largest else 2


def _fits_nibbles(task: _Task) -> bool:
    """Say whether two weights fit a byte, which is smaller than a list of what is not zero."""
    target, few = task.kernels.target, np.mean(task.weight == 0) < MANY_ZEROS
    return bool(few) and nibbles.fits(task.weight) and _reads_bytes(target, task.site.largest)


def _reads_bytes(target: CpuTarget, largest: int) -> bool:
    return choose_dot(target, largest).weight == "int8"


def _direct(task: _Task, *, packed: bool = False) -> _Candidate:
    """Return the direct form; ``packed``: with two weights a byte."""
    site, target = task.site, task.kernels.target
    if packed:
        how = replace(qconv.config(site, target), packed=True, prefetch=False)
        tensors: tuple[np.ndarray, ...] = (
            qconv.pack(task.weight, site, how),
            qconv.pack_bias(task.bias, task.weight, site, how),
        )
    else:
        how, tensors = best(site, task.weight, task.bias, target)
    cycles = qconv.cycles(site, how, target)
    kind = f"{how.dot.key}_{'gemm' if site.conv.pointwise else 'conv'}"

    def make() -> Chosen:
        kernel = task.kernels.get(qconv.qconv, kind, site, how, cycles, task.types)
        note = "two weights a byte" if packed else ""
        return Chosen(kernel=kernel, packed=tensors, cycles=cycles, note=note)

    return cycles, make


def _winograd(task: _Task) -> Iterator[_Candidate]:
    """Yield Winograd's forms that are exact."""
    site, target = task.site, task.kernels.target
    if not task.kernels.options.winograd or task.weight.shape[1:3] != (3, 3):
        return

    def make(how: WinogradConfig, cycles: float) -> Chosen:
        start = task.bias - site.zero_point * task.weight.astype(np.int64).sum((1, 2, 3))
        generator = partial(qwinograd.qwinograd, target=target)
        return Chosen(
            kernel=task.kernels.get(generator, "winograd", site, how, cycles, task.types),
            packed=(qwinograd.pack(task.weight, how, target), start.astype(np.int32)),
            cycles=cycles,
            note=f"F({how.m}, 3) in 16 bits, exact",
        )

    for m in (2, 4):
        if qwinograd.applies(site, task.weight, m):
            how = qwinograd.config(site, m, target)
            cycles = qwinograd.cycles(site, how, target)
            yield cycles, partial(make, how, cycles)


def _sparse(task: _Task, least: float) -> Iterator[_Candidate]:
    """Yield lists of blocks that are not zero, for each shape of block.

    Args:
        task: What to find a kernel for.
        least: Predicted cycles of the best other candidate.
    """
    site, target = task.site, task.kernels.target
    if np.mean(task.weight == 0) < SPARSE:
        return
    dots = dict.fromkeys([choose_dot(target, site.largest), chained_dot(target, site.largest)])
    for width, dot in product(sparse_qconv.WIDTHS, filter(None, dots)):
        plain = replace(dot, chained=False, depth=1) if dot.chained else dot
        how = sparse_qconv.config(site, width, 1, target, plain)
        if how is None:
            continue
        steps = sparse_qconv.pack(task.weight, site, how)
        # To put steps into chains takes time, and makes them more, if anything.
        if dot.chained and _cost(task, width, dot, steps)[0] >= least:
            continue
        if dot.chained:
            steps = sparse_qconv.pack(task.weight, site, replace(how, dot=dot))
        cycles, listed, how = _cost(task, width, dot, steps)
        yield cycles, partial(_listed, task, listed, how, cycles, steps)
    pixels = block_lists.best(site.conv, task.weight, target, site)
    if pixels is not None and site.zero_dtype is None:
        yield pixels.cycles, partial(_pixels, task, pixels)


def _cost(
    task: _Task, width: int, dot: Dot, steps: PanelSteps
) -> tuple[float, SparseQConvSite, qconv.QConvConfig]:
    """Return the predicted cycles of a list, its site, and how it is computed."""
    how = sparse_qconv.config(task.site, width, steps.count, task.kernels.target, dot)
    assert how is not None, "the number of steps decides nothing about the width"
    listed = SparseQConvSite(qconv=task.site, steps=steps.count, index=str(steps.offsets.dtype))
    return sparse_qconv.cycles(listed, how, task.kernels.target), listed, how


def _pixels(task: _Task, found: block_lists.Best) -> Chosen:
    """Return the kernel over lists of blocks of few outputs."""
    dot, lists = found.how.dot, found.lists
    assert dot is not None, "integers are multiplied by some instruction"
    kind = f"sparse_{dot.key}_{'gemm' if task.site.conv.pointwise else 'conv'}_pixels"
    bias = block_lists.pack_bias(task.bias, task.weight, task.site, found.how)
    return Chosen(
        kernel=task.kernels.get(
            sparse_pixels, kind, found.site, found.how, found.cycles, task.types
        ),
        packed=(lists.weights, lists.offsets, lists.starts, bias),
        cycles=found.cycles,
        note=found.note,
    )


def _listed(
    task: _Task,
    site: SparseQConvSite,
    how: qconv.QConvConfig,
    cycles: float,
    steps: PanelSteps,
) -> Chosen:
    """Return the kernel over a list of blocks."""
    kind = f"sparse_{how.dot.key}_{'gemm' if task.site.conv.pointwise else 'conv'}"
    shape, dense = f"{how.tile.columns}x{how.dot.group}", how.tile.columns * how.dot.group
    zeros = 1 - steps.count * dense / task.weight.size
    return Chosen(
        kernel=task.kernels.get(sparse_qconv.sparse_qconv, kind, site, how, cycles, task.types),
        packed=(
            steps.weights,
            steps.offsets,
            steps.panels,
            qconv.pack_bias(task.bias, task.weight, task.site, how),
        ),
        cycles=cycles,
        note=f"{zeros:.0%} of the {shape} blocks are 0",
    )
