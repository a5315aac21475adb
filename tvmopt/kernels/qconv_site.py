"""Integer convolutions: what is computed, and how an instruction cuts it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tvmopt.kernels.conv_image import Image
from tvmopt.kernels.conv_site import ConvSite
from tvmopt.kernels.dot import Dot
from tvmopt.kernels.epilogue import Epilogue
from tvmopt.kernels.tile import Tile, panels


@dataclass(frozen=True, kw_only=True, slots=True)
class QConvSite:
    """An integer convolution.

    Attributes:
        conv: Shapes, and the epilogue; its accumulator is int32.
        dtype: Of the input, "uint8" or "int8".
        zero_point: The input's integer that stands for 0; where it is known at run time alone,
            anything.
        largest: Largest magnitude of a weight, at most 2**15 - 1, as ``largest_of`` gives it.
        zero_dtype: Type of a zero point that is known at run time alone; None for others. Where
            there is padding, the zero point is one of the input's values.
    """

    conv: ConvSite
    dtype: str
    zero_point: int
    largest: int
    zero_dtype: str | None = None

    @property
    def epilogue(self) -> Epilogue:
        """What follows the convolution."""
        return self.conv.epilogue

    @property
    def line(self) -> int:
        """Values of k in one contiguous run."""
        conv = self.conv
        whole = conv.kernel[1] == 1 or (conv.dilation[1] == 1 and conv.groups == 1)
        return (conv.kernel[1] if whole else 1) * conv.group_channels

    @property
    def lines(self) -> int:
        """Runs of one output element."""
        return self.conv.taps // self.line

    @property
    def columns(self) -> int:
        """Output channels of a group."""
        return self.conv.out_channels // self.conv.groups


def largest_of(weight: np.ndarray) -> int:
    """Return the largest magnitude of integer weights; 128 counts as 129.

    Only -128 fits 8 bits, and a magnitude of 128 says to kernels that they do.
    """
    low, high = int(weight.min()), int(weight.max())
    return max(-low, 129 if high == 128 else high)


def steps_of(site: QConvSite, dot: Dot) -> int:
    """Return how many groups a run takes."""
    return -(-site.line // dot.group)


def panels_of(site: QConvSite, tile: Tile) -> list[int]:
    """Return the first column of each panel; a tile may be wider than the convolution."""
    return panels(max(site.columns, tile.columns), tile)


def image_of(site: QConvSite, dot: Dot) -> Image:
    """Return the input as the loops read it: a copy where groups read on behind a run's end."""
    beyond = steps_of(site, dot) * dot.group > site.line
    dtype = "int16" if dot.activation == "int16" else site.dtype
    return Image(
        site.conv,
        dtype,
        site.zero_point,
        dot.group if beyond else 0,
        copied=beyond or dtype != site.dtype,
    )


def flips(site: QConvSite, dot: Dot) -> bool:
    """Say whether the instruction reads the other kind of 8 bits."""
    return dot.activation not in (site.dtype, "int16")


def shift(site: QConvSite, dot: Dot) -> int:
    """Return what the flip adds to every activation."""
    if not flips(site, dot):
        return 0
    return 128 if dot.activation == "uint8" else -128
