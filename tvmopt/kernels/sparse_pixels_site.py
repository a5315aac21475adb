"""Sparse convolutions with pixels in the lanes: what is computed, how it is cut, what that costs.

Source: sparse_pixels.py names it; the costs are fitted on Zen 3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tvmopt.kernels import cost
from tvmopt.kernels.blocks import worth_threads
from tvmopt.kernels.conv_site import ConvSite
from tvmopt.kernels.dot import Dot, choose_dot
from tvmopt.kernels.epilogue import Epilogue
from tvmopt.kernels.pixel_bands import LINE_WORDS, PixelBands
from tvmopt.kernels.qconv_site import QConvSite
from tvmopt.kernels.qtile import ISSUE, REQUANTIZE_STEPS
from tvmopt.kernels.tile import LOADS_PER_CYCLE, Tile
from tvmopt.targets.description import CpuTarget

OUTPUTS = (4, 2, 1)  # of a block
VECTORS = (2, 3, 4, 6, 7, 8)  # registers of a tile's pixels
UNROLL = 2  # steps of a round; lists are whole rounds
MAX_PLANES = 2**16  # words of a band: offsets of 16 bits
STEP_CYCLES = 0.1  # a step's share of the loop
CROSSING = 1.35  # loads for one that may cross the end of a cache line, over all taps
LIST_CYCLES = 6  # to start and to leave a list, and the sums' way out of registers
DEEP_CYCLES = 40  # a list's that goes on from sums of before: they come from afar, as it is short
SWAP_CYCLES = 1.0  # to load, transpose and store one word of a register's worth
CHAINS = 7  # sums under way at which multiply-adds wait for loads more than for each other
TIGHT = 1.15  # times a step of one set of sums, which then wait for each other at times
L1_SHARE = 0.75  # of level 1 that a tile's words may take
LARGE = 1.15  # times the work where planes take more than a quarter of level 2
SHARED_BANDS = 4  # with fewer bands, threads share the outputs of each


@dataclass(frozen=True, kw_only=True, slots=True)
class SparsePixelsSite:
    """A convolution with sparse weights.

    Attributes:
        conv: Shapes and epilogue; one group, NHWC.
        steps: Blocks in the lists.
        index: Type of their offsets.
        qconv: The integer convolution that it is; None for float32.
    """

    conv: ConvSite
    steps: int
    index: str
    qconv: QConvSite | None = None

    @property
    def epilogue(self) -> Epilogue:
        """What follows the convolution."""
        return self.conv.epilogue


@dataclass(frozen=True, kw_only=True, slots=True)
class SparsePixelsConfig:
    """How it is cut.

    Attributes:
        bands: Pixels, cut into bands and tiles.
        outputs: Outputs of a block.
        lanes: Words of a register.
        depth: Blocks of words, so that what a tile reads of one stays in level 1 for all outputs.
        parallel: Whether threads share the work.
        dot: The instruction; None for float32.
    """

    bands: PixelBands
    outputs: int
    lanes: int
    depth: int
    parallel: bool
    dot: Dot | None

    @property
    def vectors(self) -> int:
        """Registers of a tile's pixels."""
        return self.bands.tile // self.lanes

    @property
    def tile(self) -> Tile:
        """Pixels by outputs that one list's step multiplies."""
        return Tile(self.bands.tile, self.outputs, self.lanes)

    @property
    def sets(self) -> int:
        """Sets of sums, which steps take in turn, so that none waits for the one before it.

        Where products are added by an instruction of their own, that takes one cycle only.
        """
        if self.dot is not None and self.dot.instructions > 1:
            return 1
        return min(UNROLL, max(1, -(-CHAINS // (self.outputs * self.vectors))))

    @property
    def shared(self) -> bool:
        """Whether all bands are copied before any is computed."""
        return self.bands.images * self.bands.count < SHARED_BANDS

    @property
    def groups(self) -> int:
        """Registers of outputs."""
        return -(-self.bands.conv.out_channels // self.lanes)

    @property
    def lists(self) -> int:
        """Lists of blocks of one block of words."""
        return self.groups * self.lanes // self.outputs

    def step_cycles(self, target: CpuTarget) -> float:
        """Return the cycles of one step."""
        sums = self.outputs * self.vectors
        crossing = CROSSING if sum(self.bands.halo) else 1.0
        loads = (self.vectors * crossing + self.outputs + 1) / LOADS_PER_CYCLE
        if self.dot is None:
            tight = TIGHT if self.outputs == self.sets == 1 else 1.0
            return max(sums / target.fma_per_cycle, loads) * tight + STEP_CYCLES
        work = (sums * self.dot.instructions + self.vectors + self.outputs) / ISSUE
        multiplies = sums * self.dot.multiplies / max(1, target.fma_per_cycle)
        return max(multiplies, work, loads) + STEP_CYCLES


def word_dot(target: CpuTarget, largest: int) -> Dot | None:
    """Return the instruction for integers whose words are of 32 bits; None if there is none."""
    dot = choose_dot(target, largest)
    if dot.name == "mla":
        return None
    narrow = dot.name == "pmaddubsw"  # its sums are widened at once here
    return replace(dot, depth=1, multiplies=2, instructions=3) if narrow else dot


def configs(
    conv: ConvSite, outputs: int, target: CpuTarget, largest: int | None = None
) -> list[SparsePixelsConfig]:
    """Return the ways to cut a convolution; none if it is not of this kind.

    Args:
        conv: The convolution.
        outputs: Of a block.
        target: The machine.
        largest: Largest magnitude of an integer weight; None for float32.
    """
    dot = None if largest is None else word_dot(target, largest)
    lanes = target.lanes(32) if dot is None else dot.lanes
    word = 1 if dot is None else dot.group
    unfit = conv.groups != 1 or conv.planar or conv.channels % word or conv.out_channels < lanes
    if unfit or (largest is not None and dot is None):
        return []
    found = []
    for vectors in VECTORS:
        bands = _bands(conv, word, vectors * lanes, target)
        if bands is None:
            continue
        how = SparsePixelsConfig(
            bands=bands,
            outputs=outputs,
            lanes=lanes,
            depth=_depth(bands, target),
            parallel=worth_threads(conv.macs // 8),
            dot=dot,
        )
        # Sums, the weights, pixels and a product; integers widen with a register of ones.
        if outputs * (vectors * how.sets + 1) + 2 + (dot is not None) <= target.vector_registers:
            found.append(how)
    return found


def _depth(bands: PixelBands, target: CpuTarget) -> int:
    """Return into how many blocks words are cut."""
    down, right = bands.halo
    lines = min((down + 1) * (bands.tile + right), bands.tile + down * bands.pitch + right)
    read = 4 * min(bands.span, lines + LINE_WORDS)
    words = max(1, int(L1_SHARE * target.l1d_bytes) // read)
    return -(-bands.words // words)


def _bands(conv: ConvSite, word: int, tile: int, target: CpuTarget) -> PixelBands | None:
    """Return the bands of least work; None where one line's planes outgrow half of level 2."""
    first = PixelBands(conv=conv, word=word, rows=1, tile=tile)
    most = min(MAX_PLANES, target.l2_bytes // 8)
    if conv.pointwise:
        # One tile a band: nothing is copied twice, and the planes are as small as can be.
        return replace(first, rows=min(tile, first.lines))
    fit = [
        bands
        for rows in range(1, first.lines + 1)
        if (bands := replace(first, rows=rows)).size <= most
    ]
    if not fit:
        return None

    def spent(bands: PixelBands) -> float:
        copied = len(bands.phases) * bands.words * (bands.rows + bands.halo[0]) * bands.pitch
        computed = bands.tiles * tile * conv.out_channels * conv.taps / word / 16
        large = LARGE if bands.size * 4 > target.l2_bytes // 4 else 1.0
        return bands.count * (copied + computed) * large

    return min(fit, key=spent)


def cycles(site: SparsePixelsSite, how: SparsePixelsConfig, target: CpuTarget) -> float:
    """Return the predicted cycles of one core."""
    conv, bands = site.conv, how.bands
    down, _ = bands.halo
    words = len(bands.phases) * bands.words * (bands.rows + down) * bands.pitch
    quantized = conv.epilogue.output is not None
    elementwise = len(conv.epilogue.steps) + REQUANTIZE_STEPS * quantized
    ends = how.groups * bands.tile * (2 * SWAP_CYCLES + cost.STEP_CYCLES * elementwise)
    lists = how.lists * (how.depth * LIST_CYCLES + (how.depth - 1) * DEEP_CYCLES)
    work = site.steps * how.step_cycles(target) + lists + ends
    in_all = bands.images * bands.count * (words / how.lanes * 2 * SWAP_CYCLES + bands.tiles * work)
    width = 4 if how.dot is None else how.dot.group
    passes = bands.images * bands.count * bands.tiles
    fetch = cost.stream_cycles(site.steps * (how.outputs * width + 2), target) * passes
    return cost.CALL_CYCLES + max(in_all, fetch)
