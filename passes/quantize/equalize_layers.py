"""Scale the channels between two layers so that both quantize well.

Before::

    y = act(W1 x + b1);  z = W2 y                    act: homogeneous, act(s y) = s act(y) for s > 0

After, with a scale s for each channel of y::

    y = act((W1 / s) x + b1 / s);  z = (W2 s) y      the same z, bit for bit: s is a power of two

where s makes the largest weight of each output of W1 that of the same input of W2. Chains of layers
are gone over until they agree. A rectifier, a leaky rectifier, pooling and means over positions are
homogeneous; a clip at a positive bound is not, and is treated as ``clips`` says. Cost: none at run
time, but for ``clips="split"``, which adds an elementwise minimum.

Source: M. Nagel, M. van Baalen, T. Blankevoort and M. Welling, "Data-free quantization through
weight equalization and bias correction", ICCV 2019, section 4.1 and equation 11. Powers of two, and
a clip kept exact by a bound for each channel, are derived here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.errors import OptionError
from tvmopt.passes.canonicalize.linear_sites import LinearSite, linear_site
from tvmopt.passes.canonicalize.rebuild import Rebuild, Rule, is_plain, rebuild_main
from tvmopt.passes.quantize.scaling import power_of_two, spread
from tvmopt.passes.quantize.weight_layers import Reader
from tvmopt.report import Report

# What scales with its input, channel by channel.
_HOMOGENEOUS = (
    "relax.nn.relu",
    "relax.nn.leakyrelu",
    "relax.nn.max_pool2d",
    "relax.nn.avg_pool2d",
)
_ROUNDS = 40  # chains of a dozen layers agree to a few percent in far fewer


@dataclass(frozen=True, kw_only=True, slots=True)
class EqualizeLayersOptions:
    """What becomes of clips between layers, as those of ReLU6.

    Attributes:
        clips: ``"keep"``: layers on either side of one are left alone. ``"split"``: it becomes a
            rectifier and a minimum with a bound for each channel, the same function. ``"drop"``: it
            becomes a rectifier, another function, as in the paper.

    Raises:
        OptionError: It is none of these.
    """

    clips: Literal["keep", "split", "drop"] = "keep"

    def __post_init__(self) -> None:
        if self.clips not in ("keep", "split", "drop"):
            raise OptionError(f"clips must be 'keep', 'split' or 'drop', got {self.clips!r}")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Pair:
    """Two layers, and what lies between them.

    Attributes:
        first: The variable of the first layer's operator.
        bias: The variable of the sum behind it; None without one.
        clip: The variable of a clip between the two; None without one.
        second: The variable of the second layer's operator.
    """

    first: relax.Var
    bias: relax.Var | None
    clip: relax.Var | None
    second: relax.Var


class EqualizeLayers:
    """Equalize every pair of layers, and note in the report what it brought.

    A plain callable, as are the passes that run beside it.
    """

    def __init__(self, options: EqualizeLayersOptions, report: Report) -> None:
        self.options = options
        self.report = report

    def __call__(self, mod: tvm.IRModule) -> tvm.IRModule:
        """Return the equalized module; ``mod``, in canonical form, is left as it was."""
        if not is_plain(mod["main"]):
            self._note("main", applied=False, reason="it has control flow or side effects")
            return mod
        graph = Reader(mod)
        sites = {
            var: site
            for var, value in graph.values.items()
            if isinstance(var.ty, relax.TensorType)
            and (site := linear_site(value, len(ir.shape(var)))) is not None
            and site.channel_axis == site.rank - 1
        }
        pairs = list(self._pairs(graph, sites))
        if not pairs:
            return mod
        weights = {var: site.grouped() for var, site in sites.items()}
        scales = balance(pairs, weights)
        self._report(pairs, weights, scales)
        return rebuild_main(mod, lambda frame: _rule(frame, sites, pairs, scales, self.options))

    def _pairs(self, graph: Reader, sites: dict[relax.Var, LinearSite]) -> Iterator[_Pair]:
        for var, site in sites.items():
            bias, at = None, var
            user = graph.only_user(var)
            if user is not None and _is_bias(graph.values[user], var, site):
                bias = at = user
            clip, second = self._follow(graph, at, sites)
            if isinstance(second, str):
                self._note(var.name, applied=False, reason=second)
            else:
                yield _Pair(first=var, bias=bias, clip=clip, second=second)

    def _follow(
        self, graph: Reader, var: relax.Var, sites: dict[relax.Var, LinearSite]
    ) -> tuple[relax.Var | None, relax.Var | str]:
        """Return a clip on the way and the next layer, or why there is none."""
        clip = None
        while (user := graph.only_user(var)) is not None:
            value = graph.values[user]
            if user in sites:
                same = value.args[0].same_as(var) and not value.args[1].same_as(var)
                return clip, user if same else "it is read as a weight"
            if ir.is_call_to(value, "relax.clip"):
                if ir.scalar(value.args[1]) != 0.0:
                    return None, "a clip behind it does not scale"
                if self.options.clips == "keep" or clip is not None:
                    return None, f"a clip at {ir.scalar(value.args[2]):g} does not scale"
                clip = user
            elif not _keeps_channels(value):
                return None, "what reads it does not scale with it"
            var = user
        return None, "several operators read it, or none"

    def _report(
        self,
        pairs: list[_Pair],
        weights: dict[relax.Var, np.ndarray],
        scales: dict[relax.Var, np.ndarray],
    ) -> None:
        for pair in pairs:
            before = _input_ranges(weights[pair.second])
            after = before * scales[pair.first]
            self._note(
                pair.first.name,
                applied=bool(np.any(scales[pair.first] != 1.0)),
                reason=f"largest over median weight of the inputs of {pair.second.name}: "
                f"{spread(before):.3g} -> {spread(after):.3g}",
            )

    def _note(self, site: str, *, applied: bool, reason: str) -> None:
        self.report.add("EqualizeLayers", site, applied=applied, reason=reason)


def balance(
    pairs: list[_Pair], weights: dict[relax.Var, np.ndarray]
) -> dict[relax.Var, np.ndarray]:
    """Return for each pair, by its first layer, the scale of each channel between the two.

    Args:
        pairs: The pairs; a layer is the first of at most one and the second of at most one.
        weights: (groups, outputs of a group, inputs of a group, taps) float64.

    Returns:
        Powers of two, (channels,).
    """
    outputs = {pair.first: _output_ranges(weights[pair.first]) for pair in pairs}
    scales = {pair.first: np.ones_like(outputs[pair.first]) for pair in pairs}
    feeding = {pair.second: pair.first for pair in pairs}
    for _ in range(_ROUNDS):
        for pair in pairs:
            # What a layer's inputs are scaled by moves the ranges of its outputs as well.
            first = weights[pair.first]
            if pair.first in feeding:
                first = _scaled_inputs(first, scales[feeding[pair.first]])
            second = weights[pair.second]
            if pair.second in scales:
                second = _divided_outputs(second, scales[pair.second])
            left, right = _output_ranges(first), _input_ranges(second)
            live = (left > 0.0) & (right > 0.0)
            scales[pair.first] = np.sqrt(np.divide(left, right, out=np.ones_like(left), where=live))
    return {var: power_of_two(scale) for var, scale in scales.items()}


def _rule(
    frame: Rebuild,
    sites: dict[relax.Var, LinearSite],
    pairs: list[_Pair],
    scales: dict[relax.Var, np.ndarray],
    options: EqualizeLayersOptions,
) -> Rule:
    into = {pair.second: scales[pair.first] for pair in pairs}
    biases = {pair.bias: scales[pair.first] for pair in pairs if pair.bias is not None}
    clips = {pair.clip: scales[pair.first] for pair in pairs if pair.clip is not None}

    def rule(var: relax.Var, value: relax.Expr) -> relax.Expr:
        if var in scales or var in into:
            weight = sites[var].grouped()
            weight = _scaled_inputs(weight, into[var]) if var in into else weight
            weight = _divided_outputs(weight, scales[var]) if var in scales else weight
            return ir.with_changes(
                value, [value.args[0], relax.const(sites[var].ungrouped(weight))]
            )
        if var in biases:
            scaled = (ir.float_constant(value.args[1]) / biases[var]).astype(ir.dtype(var))
            return ir.with_changes(value, [value.args[0], relax.const(scaled)])
        if var in clips:
            high = ir.scalar(value.args[2])
            rectified = relax.op.nn.relu(value.args[0])
            if options.clips == "drop":
                return rectified
            bounds = relax.const((high / clips[var]).astype(ir.dtype(var)))
            return relax.op.minimum(frame.emit(rectified, f"{var.name}_relu"), bounds)
        return value

    return rule


def _is_bias(value: relax.Expr, var: relax.Var, site: LinearSite) -> bool:
    if not ir.is_call_to(value, "relax.add") or not value.args[0].same_as(var):
        return False
    bias = ir.float_constant(value.args[1])
    outputs = site.weight.shape[site.output_axis] * (site.groups if site.transposed else 1)
    return bias is not None and bias.shape[-1:] == (outputs,) and bias.size == outputs


def _keeps_channels(value: relax.Expr) -> bool:
    """Say whether a value scales with its one operand, channel by channel, the last axis."""
    if ir.is_call_to(value, *_HOMOGENEOUS):
        pooled = ir.is_call_to(value, "relax.nn.max_pool2d", "relax.nn.avg_pool2d")
        return not pooled or value.attrs.layout == "NHWC"
    if ir.is_call_to(value, "relax.mean"):
        rank = len(ir.shape(value.args[0]))
        axes = [int(axis) % rank for axis in value.attrs.axis or range(rank)]
        return rank - 1 not in axes
    if ir.is_call_to(value, "relax.reshape"):
        return ir.shape(value)[-1:] == ir.shape(value.args[0])[-1:]
    return False


def _output_ranges(weight: np.ndarray) -> np.ndarray:
    return np.abs(weight).max(axis=(2, 3)).reshape(-1)


def _input_ranges(weight: np.ndarray) -> np.ndarray:
    return np.abs(weight).max(axis=(1, 3)).reshape(-1)


def _scaled_inputs(weight: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return weight * scale.reshape(weight.shape[0], 1, weight.shape[2], 1)


def _divided_outputs(weight: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return weight / scale.reshape(weight.shape[0], weight.shape[1], 1, 1)
