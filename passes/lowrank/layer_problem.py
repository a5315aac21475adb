"""Look at the layers of a graph, and say what their factors are to come near.

Source: none; derived here.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvmopt.passes.lowrank.options import FactorizeLayersOptions
from tvmopt.passes.lowrank.problem import Problem, plain_problem, sampled_problem
from tvmopt.passes.prune.float_layers import FloatLayer
from tvmopt.passes.quantize.hessian import MomentSum
from tvmopt.passes.quantize.net_pair import NetPair
from tvmopt.passes.quantize.repair_weights import half_sums


def problem_of_weights(layer: FloatLayer) -> Problem:
    """Return the problem of coming near a layer's weights, whatever it reads."""
    rows, bias = layer.rows(), layer.reference_bias
    return plain_problem(rows if bias is None else rows[:, :-1], bias, layer.patches.kernel)


def problems_of(
    pair: NetPair, stage: Sequence[FloatLayer], options: FactorizeLayersOptions
) -> list[Problem]:
    """Return the problems of layers that read the same tensor; the samples run up to there.

    Args:
        pair: The net, factorized so far, and the dense net.
        stage: The layers.
        options: How many rows are looked at, and what they are for.

    Raises:
        DataError: A value is not finite.
        OptionError: The ridge is too small.
    """
    sums = [(_empty(layer), _empty(layer)) for layer in stage]
    share = max(2, options.rows // pair.batches)
    half_sums(pair, stage, sums, share, options.seed)
    return [_problem(layer, halves, options) for layer, halves in zip(stage, sums, strict=True)]


def _empty(layer: FloatLayer) -> MomentSum:
    has_bias = layer.reference_bias is not None
    return MomentSum(layer.rows()[None], has_bias=has_bias, layer=layer.name)


def _problem(
    layer: FloatLayer, halves: tuple[MomentSum, MomentSum], options: FactorizeLayersOptions
) -> Problem:
    one, other = halves
    first = one.finish()
    return sampled_problem(
        layer.rows(),
        (first, other.finish() if other.rows else first),  # one row has no other half
        layer.patches.kernel,
        has_bias=layer.reference_bias is not None,
        ridge=options.ridge,
        whiten=options.whiten,
    )
