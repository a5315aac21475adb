"""Convolutions with coded weights: the implicit product of conv.py, a panel decoded at a time.

What ``weight_gemm`` is to ``gemm``: a panel becomes float32 in memory where the products of it
begin, once for all pixels of a block, and the roundings are those of the dequantized weights.

Source: none; derived here.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from tvmopt.kernels import conv, cost
from tvmopt.kernels.conv import ConvConfig
from tvmopt.kernels.conv_site import ConvSite
from tvmopt.kernels.epilogue import Epilogue
from tvmopt.kernels.tile import panels
from tvmopt.kernels.weight_code import WeightCode
from tvmopt.kernels.weight_site import WeightSite
from tvmopt.targets.description import CpuTarget


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightConvSite:
    """A convolution with coded weights, of one group.

    Attributes:
        conv: Shapes, and the epilogue.
        code: How weights are stored, as a matrix of taps by output channels.
    """

    conv: ConvSite
    code: WeightCode

    @property
    def epilogue(self) -> Epilogue:
        """What follows the convolution."""
        return self.conv.epilogue

    @property
    def product(self) -> WeightSite:
        """The product that the convolution is, over its output pixels."""
        conv = self.conv
        return WeightSite(m=conv.rows, k=conv.taps, n=conv.out_channels, code=self.code)


def config(site: WeightConvSite, target: CpuTarget) -> ConvConfig:
    """Return the analytic choice: that of the convolution with float32 weights."""
    return conv.config(site.conv, target)


def cycles(site: WeightConvSite, how: ConvConfig, target: CpuTarget) -> float:
    """Return the predicted cycles of one core: the convolution, and decoding for each block."""
    registers = len(panels(site.conv.out_channels, how.tile)) * how.tile.vectors * site.conv.taps
    decode = registers * (site.code.decode_cycles + cost.STEP_CYCLES)
    return conv.cycles(site.conv, how, target) + how.rows.count * decode


def weight_conv(site: WeightConvSite, how: ConvConfig, name: str) -> tirx.PrimFunc:
    """Return ``name(x, *weights, *operands, y)``, weights as ``site.product.pack`` has."""
    assert site.conv.groups == 1, "the weights are one matrix"
    return conv.conv(site.conv, how, name, site.product)
