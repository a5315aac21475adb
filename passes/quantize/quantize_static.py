"""Let layers compute with integers whose scales are fixed by calibration.

Before::

    y = conv2d | matmul(x, w);  z = add(y, b);  a = relu(z)

After::

    y = conv2d | matmul(dequantize(xq, sx, zx), dequantize(wq, sw, 0, axis))
    z = add(y, dequantize(bq, sx * sw, 0));  a = relu(z)
    aq = quantize(a, sa, za)            what read a reads dequantize(aq, sa, za)

Which tensors are quantized says ``integer_flow``; what only moves elements works on the integers.
Weights are symmetric, one scale an output or one a tensor; activations have one scale and, unless
they are symmetric too, a zero point. Cost: a quarter of the bytes of weights and activations, and
integer arithmetic where lowering has a kernel for it.

Sources: B. Jacob et al., "Quantization and training of neural networks for efficient
integer-arithmetic-only inference", CVPR 2018 (arXiv:1712.05877), section 2, for the form;
R. Krishnamoorthi, arXiv:1806.08342, section 3, for doing it after training, and weights by
channel; those of ``ranges`` and ``weight_grid`` for the scales.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import tvm
from tvm import relax

from tvmopt import forms, ir
from tvmopt.calibration import Samples, Tap
from tvmopt.errors import OptionError
from tvmopt.passes.canonicalize.rebuild import Rebuild, is_plain, rebuild_main
from tvmopt.passes.quantize.grid import (
    Grid,
    Levels,
    affine_grid,
    symmetric,
    symmetric_grid,
    unsigned,
)
from tvmopt.passes.quantize.integer_flow import IntegerFlow, find_flow
from tvmopt.passes.quantize.integer_rewriter import IntegerRewriter
from tvmopt.passes.quantize.layer_bits import (
    Chosen,
    LayerBits,
    LayerChoice,
    check_bits,
    choose_layers,
)
from tvmopt.passes.quantize.layers import Layer, transposed_convolutions
from tvmopt.passes.quantize.observe import Progress, observe, silent
from tvmopt.passes.quantize.ranges import COUNTING, RangeMethod, check_range, choose_range
from tvmopt.passes.quantize.store_weight import RoundWeights, affine_of, to_nearest
from tvmopt.passes.quantize.weight_grid import Method, WeightChoice, weight_grid
from tvmopt.report import Report

# A bias takes at most half of an accumulator, and the products, some 33,000 of 255 * 127, the rest.
_MOST_BIAS = 2.0**30
_FINER = 1.5


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizeStaticOptions:
    """How layers are quantized, and which.

    Attributes:
        weight_bits: Of the weights, from 2 to 8. 8 is -127 to 127; 7 is -64 to 64, the most whose
            products with bytes add up in pairs within 16 bits.
        sensitive_bits: The fewest for depthwise, first and last layers, from 2 to 8.
        weight_granularity: One scale for each output ("channel"), or one ("tensor").
        weight_method: How weights' scales are chosen.
        activation_bits: Of the activations: 8, or 16, whose zero points are 0 and whose range no
            search narrows. Layers whose sums may not fit 32 bits then stay in floats.
        activation_symmetric: Whether zero points are 0: int8 instead of uint8.
        activation_range: How activations' ranges are chosen. Model inputs always keep theirs whole.
        percentile: What "percentile" keeps unclipped, in percent, in (50, 100].
        layers: Patterns of the layers to quantize, as of a shell.
        rules: Bits for some layers; the last that matches decides.
        skip: Layers to leave in floats, by name, and why.

    Raises:
        OptionError: An option is outside its domain.
    """

    weight_bits: int = 8
    sensitive_bits: int = 8
    weight_granularity: Literal["channel", "tensor"] = "channel"
    weight_method: Method = "mse"
    activation_bits: int = 8
    activation_symmetric: bool = False
    activation_range: RangeMethod = "mse"
    percentile: float = 99.99
    layers: tuple[str, ...] = ("*",)
    rules: tuple[LayerBits, ...] = ()
    skip: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_bits("weight_bits", self.weight_bits)
        check_bits("sensitive_bits", self.sensitive_bits)
        if self.weight_granularity not in ("channel", "tensor"):
            raise OptionError(
                "weight_granularity must be 'channel' or 'tensor' in integer arithmetic, got "
                f"{self.weight_granularity!r}; weights by group are stored by QuantizeWeights"
            )
        if self.activation_bits not in (8, 16):
            raise OptionError(
                f"activation_bits must be 8 or 16, got {self.activation_bits!r}; there are no "
                "integer kernels for other activations"
            )
        check_range(self.range_method, self.percentile, self.activation_levels)
        WeightChoice(levels=symmetric(8), method=self.weight_method)

    @property
    def activation_levels(self) -> Levels:
        """The integers of activations."""
        if self.is_symmetric:
            return symmetric(self.activation_bits)
        return unsigned(self.activation_bits)

    @property
    def is_symmetric(self) -> bool:
        """Whether zero points of activations are 0; kernels take words with no other."""
        return self.activation_symmetric or self.activation_bits == 16

    @property
    def range_method(self) -> RangeMethod:
        """How activations' ranges are chosen: with 16 bits to clip gains nothing."""
        searches = self.activation_range in ("mse", "entropy")
        return "minmax" if searches and self.activation_bits == 16 else self.activation_range


class QuantizeStatic:
    """Quantize the layers that match, and note each decision in the report.

    It is no TVM pass: what fails in one of those loses its type.
    """

    def __init__(
        self,
        options: QuantizeStaticOptions,
        samples: Samples,
        tap: Tap,
        report: Report,
        *,
        round_weights: RoundWeights = to_nearest,
        progress: Progress = silent,
    ) -> None:
        """Take what is needed.

        Args:
            options: How, and which layers.
            samples: What the activations' ranges are taken from.
            tap: Compiles modules for this machine.
            report: Takes each decision.
            round_weights: Rounds weights to their grids.
            progress: Is told of each batch of samples.
        """
        self.options, self.samples, self.tap, self.report = options, samples, tap, report
        self.round_weights, self.progress = round_weights, progress

    def __call__(self, mod: tvm.IRModule) -> tvm.IRModule:
        """Return the quantized module; ``mod``, in canonical form, is left as it was.

        Raises:
            OptionError: A pattern matches no layer.
            DataError: An activation is not finite on some sample.
        """
        if not is_plain(mod["main"]):
            self._leave("main", "it has control flow or side effects")
            return mod
        mod = ir.unique_names(mod)
        chosen = {one.layer.var: one for one in self._choose(mod["main"])}
        if not chosen:
            return mod
        layers = {var: one.layer for var, one in chosen.items()}
        flow = find_flow(Rebuild(mod["main"], relax.BlockBuilder()), layers)
        hows = self._calibrate(mod, flow)

        def weight(layer: Layer, data: forms.Affine) -> forms.Dequantized:
            return self._weight(chosen[layer.var], data)

        def rule(graph: Rebuild) -> IntegerRewriter:
            # Found anew: a graph makes a variable of its own for a tuple that is returned.
            return IntegerRewriter(graph, find_flow(graph, layers), hows, layers, weight)

        return rebuild_main(mod, rule)

    def _choose(self, func: relax.Function) -> list[Chosen]:
        """Return the layers to quantize, and note those that are left."""
        options = self.options
        choice = LayerChoice(
            bits=options.weight_bits,
            sensitive_bits=options.sensitive_bits,
            layers=options.layers,
            rules=options.rules,
            skip=options.skip,
        )
        chosen, left = choose_layers(func, choice)
        for name, reason in left:
            self._leave(name, reason)
        for name in transposed_convolutions(func):
            self._leave(name, "transposed convolutions have no integer form")
        for one in chosen:
            if not fits_accumulator(one, options.activation_levels):
                inputs = one.layer.weight.size // one.layer.outputs
                self._leave(one.layer.name, f"{inputs} products may not fit a 32-bit sum")
        return [one for one in chosen if fits_accumulator(one, options.activation_levels)]

    def _calibrate(self, mod: tvm.IRModule, flow: IntegerFlow) -> dict[str, forms.Affine]:
        """Return what the integers of each tensor mean whose range is asked for, by its name."""
        options, levels = self.options, self.options.activation_levels
        names = sorted({var.name for var in flow.ranges.values()})
        counted = options.range_method in COUNTING
        seen = observe(mod, names, self.samples, self.tap, counted=counted, progress=self.progress)
        inputs = {param.name for param in mod["main"].params}
        hows = {}
        for name, stats in seen.items():
            # Inputs often lie on a lattice of 256 values already, which only their range finds.
            method = "minmax" if name in inputs else options.range_method
            low, high = choose_range(stats, method, levels, options.percentile)
            if options.is_symmetric:
                hows[name] = affine_of(symmetric_grid(np.asarray(max(-low, high)), levels))
            else:
                hows[name] = affine_of(affine_grid(low, high, levels))
        return hows

    def _weight(self, chosen: Chosen, data: forms.Affine) -> forms.Dequantized:
        """Return a layer's weight in integers, and note it."""
        options, layer = self.options, chosen.layer
        axis = layer.axis if options.weight_granularity == "channel" else None
        choice = WeightChoice(levels=symmetric(chosen.bits), method=options.weight_method)
        grid = with_room_for_bias(weight_grid(layer.weight, choice, axis=axis), layer, data)
        codes = self.round_weights(layer.name, layer.weight, grid)
        self.report.add(
            "QuantizeStatic",
            layer.name,
            applied=True,
            reason=f"{chosen.described} by {options.weight_granularity}, input {data.dtype} of "
            f"step {float(data.scale):.3g} and zero point {int(data.zero_point)}",
        )
        return forms.Dequantized(codes=codes, how=affine_of(grid))

    def _leave(self, site: str, reason: str) -> None:
        self.report.add("QuantizeStatic", site, applied=False, reason=reason)


def fits_accumulator(chosen: Chosen, levels: Levels) -> bool:
    """Say whether a layer's sums of products, of any input, leave its bias room in 32 bits.

    Args:
        chosen: The layer.
        levels: Of its input. For bytes all weights count as the greatest; words leave no such room,
            so that there each output's own weights count, half as large again as on a grid that
            spans them, for a repair may choose a finer one.
    """
    layer, greatest = chosen.layer, symmetric(chosen.bits).high
    inputs = float(layer.weight.size // layer.outputs)
    if levels.high > unsigned(8).high:
        rows = np.abs(np.moveaxis(layer.weight, layer.axis, 0).reshape(layer.outputs, -1))
        peak = np.maximum(rows.max(axis=1), np.finfo(np.float32).tiny)
        inputs = min(inputs, _FINER * float((rows.sum(axis=1) / peak).max()))
    return inputs * levels.high * greatest < _MOST_BIAS


def with_room_for_bias(grid: Grid, layer: Layer, data: forms.Affine) -> Grid:
    """Return the grid with scales so large that each bias, in units of sx * sw, fits 31 bits.

    An output whose weights are next to nothing beside its bias loses weights that do not matter.

    Args:
        grid: Of the layer's weight, by output or one scale.
        layer: The layer.
        data: How its input is quantized.
    """
    if layer.bias is None:
        return grid
    needed = np.abs(layer.bias).astype(np.float64) / (float(data.scale) * _MOST_BIAS)
    if grid.axis is None:
        needed = needed.max()
    return replace(grid, scale=np.maximum(grid.scale, needed.astype(np.float32)))
