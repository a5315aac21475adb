"""Find the best integers for one layer: every grid that may serve, every method, output by output.

Sources: those of ``gptq`` and ``round_weights``; the choice for each output is derived here. It is
what makes a repair safe: the constants at hand are among the candidates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from tvmopt import forms
from tvmopt.errors import OptionError
from tvmopt.passes.quantize.gptq import (
    Elimination,
    round_gptq,
    trusted_share,
    wanted_weights,
)
from tvmopt.passes.quantize.grid import Levels
from tvmopt.passes.quantize.hessian import Moments, pooled, regularized
from tvmopt.passes.quantize.round_weights import Rounding, WeightGrid, improve
from tvmopt.passes.quantize.weight_grid import WeightChoice, weight_grid
from tvmopt.passes.quantize.weight_layers import WeightLayer

Method = Literal["gptq", "adaround", "nearest"]
PRUNED = 0.2  # share of zeros from which a weight counts as pruned, and its zeros stay


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundingOptions:
    """How a layer's weights are rounded.

    Attributes:
        method: ``"gptq"``; ``"adaround"``, up or down by coordinate descent; ``"nearest"``, which
            moves only the bias and, with ``search_scale``, the scale.
        asymmetric: Whether the outputs wanted are those of the net of floats; else each layer is to
            give what its weights as floats would make of the inputs that it gets.
        ridge: Pull towards the weights as they were, as a share of the inputs' mean square, in
            (0, 1].
        activation_order: GPTQ rounds inputs of the largest mean square first.
        search_scale: Whether scales are chosen anew too, by squared error of the weights wanted.
        sweeps: How often coordinate descent goes over all weights, at least 0.

    Raises:
        OptionError: A value is outside its domain.
    """

    method: Method = "gptq"
    asymmetric: bool = True
    ridge: float = 0.01
    activation_order: bool = True
    search_scale: bool = True
    sweeps: int = 2

    def __post_init__(self) -> None:
        if self.method not in ("gptq", "adaround", "nearest"):
            raise OptionError(
                f"method must be 'gptq', 'adaround' or 'nearest', got {self.method!r}"
            )
        if not 0.0 < self.ridge <= 1.0:
            raise OptionError(f"ridge must be in (0, 1], got {self.ridge!r}")
        if self.sweeps < 0:
            raise OptionError(f"sweeps must be at least 0, got {self.sweeps!r}")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Repaired:
    """What a layer's constants become.

    Attributes:
        stored: The weight.
        bias: (outputs,) float64; None where the layer has none that can be changed.
        before: Squared error of the outputs with the constants at hand, as a share of the square of
            the outputs wanted.
        after: The same with the new ones.
        share: How much of the regression's change was trusted, in [0, 1].
        rows: How many rows both errors were measured on, those that the weights were fitted to.
    """

    stored: forms.Dequantized | forms.Grouped
    bias: np.ndarray | None
    before: float
    after: float
    share: float
    rows: int


def repair_layer(
    layer: WeightLayer, halves: tuple[Moments, Moments], options: RoundingOptions
) -> Repaired:
    """Round one layer's weights anew.

    Args:
        layer: The layer.
        halves: Moments of its inputs, and of what its weights as floats miss, over two halves of
            the rows; see ``hessian``.
        options: How.

    Returns:
        Constants for which the regularized objective is, for each output, at most that of the
        constants at hand.
    """
    has_bias, moments = layer.bias is not None, pooled(*halves)
    hessian = regularized(moments.inputs, options.ridge, has_bias=has_bias)
    exact = layer.with_bias(layer.rows(layer.weight), layer.reference_bias)
    wanted, share = exact, 0.0
    if options.asymmetric:
        share = trusted_share(halves, options.ridge, has_bias=has_bias)
        wanted = wanted_weights(exact, share * moments.missed, hessian)
    held = layer.bias.value if layer.bias is not None else None
    at_hand = layer.with_bias(layer.rows(layer.stored.value()), held)
    problems = [
        Rounding(wanted=wanted, hessian=hessian, grid=grid, has_bias=has_bias)
        for grid in grids(layer, wanted[..., : wanted.shape[-1] - has_bias], options)
    ]
    best, grid = _search(problems, at_hand, options)
    total = float(moments.wanted.sum()) or 1.0
    return Repaired(
        stored=_stored(layer, grid, best[..., : problems[0].inputs]),
        bias=best[..., -1].reshape(-1) if has_bias else None,
        before=float(moments.error(at_hand - exact).sum()) / total,
        after=float(moments.error(best - exact).sum()) / total,
        share=share,
        rows=moments.rows,
    )


def _search(
    problems: list[Rounding], at_hand: np.ndarray, options: RoundingOptions
) -> tuple[np.ndarray, WeightGrid]:
    """Return the best weights of all grids, output by output, and the grid of each output.

    Args:
        problems: One layer on different grids, that of the weights at hand first.
        at_hand: These weights.
        options: How.
    """
    first, *others = problems
    how = None
    if options.method == "gptq":
        how = Elimination.of(
            first.hessian, has_bias=first.has_bias, activation_order=options.activation_order
        )
    best, scale = _round(first, at_hand, how, options), first.grid.scale
    for problem in others:
        trial = _round(problem, problem.nearest(problem.wanted), how, options)
        lower = (problem.objective(trial) < problem.objective(best))[..., None]
        best, scale = np.where(lower, trial, best), np.where(lower, problem.grid.scale, scale)
    return best, replace(first.grid, scale=scale)


def _round(
    problem: Rounding, start: np.ndarray, how: Elimination | None, options: RoundingOptions
) -> np.ndarray:
    start = problem.better(problem.with_best_bias(start), problem.nearest(problem.wanted))
    if options.method == "nearest":
        return start
    if how is None:
        return improve(problem, start, options.sweeps, neighbours=True)
    return improve(problem, round_gptq(problem, start, how), options.sweeps)


def grids(layer: WeightLayer, wanted: np.ndarray, options: RoundingOptions) -> list[WeightGrid]:
    """Return the grids to try: that at hand first, then one chosen for the weights wanted.

    Args:
        layer: The layer.
        wanted: (groups, outputs of a group, inputs) float64, without the bias.
        options: How.
    """
    scale, zero = _spread(layer)
    low, high = code_range(layer.stored.codes, symmetric=not np.any(zero))
    at_hand = WeightGrid(scale=scale, zero_point=zero, low=low, high=high, zeros=_pruned(layer))
    if not options.search_scale or not _scale_of_each_output(layer) or np.any(zero):
        return [at_hand]
    most = min(high, -low)
    axis, group = layer.output_axis, None
    if isinstance(layer.stored, forms.Grouped):
        axis, group = layer.stored.axis, layer.stored.codes.shape[layer.stored.axis + 1]
    grid = weight_grid(
        layer.unrowed(wanted).astype(np.float32),
        WeightChoice(levels=Levels(low=-most, high=most, dtype="int8")),
        axis=axis,
        group=group,
    )
    scale = _rows(layer, grid.spread(grid.scale, layer.weight.shape))
    scale = np.maximum(scale, _least_scale(layer)).astype(np.float32)  # as it will be stored
    return [at_hand, replace(at_hand, scale=scale.astype(np.float64))]


def _pruned(layer: WeightLayer) -> np.ndarray | None:
    """Return where a pruned weight is zero; None where it is not pruned."""
    zeros = layer.rows(layer.weight) == 0
    return zeros if zeros.mean() >= PRUNED else None


def _least_scale(layer: WeightLayer) -> np.ndarray | float:
    """Return the least scale of each output whose bias, in units of sx * sw, fits 31 bits."""
    if layer.bias is None or layer.bias.data is None or layer.reference_bias is None:
        return 0.0
    unit = float(layer.bias.data.scale) * 2.0**30
    return (np.abs(layer.reference_bias) / unit).reshape(layer.patches.groups, -1, 1)


def code_range(codes: np.ndarray, *, symmetric: bool) -> tuple[int, int]:
    """Return the range of integers that codes may move in without needing more bits.

    The graph does not say how many bits a weight was given, only its integers do: the range is the
    one they span, and if symmetric made as wide below zero as above, or one wider.
    """
    least, most = int(codes.min()), int(codes.max())
    if not symmetric:
        return least, most
    high = max(most, -least - 1, 1)
    return min(least, -high), high


def _scale_of_each_output(layer: WeightLayer) -> bool:
    """Say whether every output has scales of its own, one or one for each group of inputs."""
    stored, axis = layer.stored, layer.output_axis
    if isinstance(stored, forms.Dequantized):
        return bool(stored.how.scale.ndim) and stored.how.axis == axis
    place = axis + (stored.axis < axis)
    return stored.axis != axis and stored.scale.shape[place] == stored.codes.shape[place]


def _spread(layer: WeightLayer) -> tuple[np.ndarray, np.ndarray]:
    """Return the weight's scales and zero points as ``WeightGrid`` takes them."""
    stored = layer.stored
    if isinstance(stored, forms.Dequantized):
        how, rank = stored.how, stored.codes.ndim
        scale, zero = how.along(how.scale, rank), how.along(how.zero_point, rank)
        return _rows(layer, scale), _rows(layer, zero)
    scale, zero = (
        np.broadcast_to(values, stored.codes.shape).reshape(stored.shape)
        for values in (stored.scale, np.float32(0) if stored.zero is None else stored.zero)
    )
    return _rows(layer, scale), _rows(layer, zero)


def _rows(layer: WeightLayer, values: np.ndarray) -> np.ndarray:
    """Return values that broadcast to the weight by output; one for all inputs where all agree."""
    rows = layer.rows(np.broadcast_to(values, layer.weight.shape))
    return rows[..., :1] if np.all(rows == rows[..., :1]) else rows


def _stored(
    layer: WeightLayer, grid: WeightGrid, q: np.ndarray
) -> forms.Dequantized | forms.Grouped:
    """Return numbers of a grid as the layer keeps them."""
    stored = layer.stored
    codes = layer.unrowed(grid.integers(q)).astype(stored.codes.dtype).reshape(stored.codes.shape)
    if not _scale_of_each_output(layer):
        return replace(stored, codes=codes)
    scale = layer.unrowed(np.broadcast_to(grid.scale, q.shape)).astype(np.float32)
    if isinstance(stored, forms.Dequantized):
        along = np.moveaxis(scale, layer.output_axis, 0).reshape(len(stored.how.scale), -1)
        how = replace(stored.how, scale=along[:, 0].copy())
        return replace(stored, codes=codes, how=how)
    groups = scale.reshape(stored.codes.shape).take([0], axis=stored.axis + 1)
    return replace(stored, codes=codes, scale=groups)
