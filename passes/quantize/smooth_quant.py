"""Move the outliers of activations into the weights that read them.

Before::

    y = layer_norm(x, gamma, beta);   z_i = matmul(y, W_i)

After, with a scale s for each channel of y::

    y = layer_norm(x, gamma / s, beta / s);   z_i = matmul(y, s W_i)

and whatever else reads y reads y * s. Where y comes of another operator, and layers alone read it::

    y = f(x);   z_i = conv2d | matmul(y * (1 / s), s W_i)

Each s is a power of two, so that all z_i are the same bits. A few channels of activations are many
times larger than all others, behind layer norms and behind unbounded activation functions; with one
scale for the tensor, or for a row, they leave few levels to the rest. With
``s = max|y|^strength / max|W|^(1 - strength)``, weights share that burden. Cost: none at run time
behind a layer norm that only layers read; else one multiplication for each element, which the
kernel that makes y does before it stores it; there it is done only where the error of rounding
becomes less than ``_WORTH`` of what it was.

Source: G. Xiao et al., "SmoothQuant: accurate and efficient post-training quantization for large
language models", ICML 2023, equation 4 (their alpha is ``strength``). Powers of two, the
products, and the rule for them are derived here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.calibration import Samples, Tap
from tvmopt.errors import DataError, OptionError
from tvmopt.passes.canonicalize.rebuild import Rebuild, Rule, is_plain, rebuild_main
from tvmopt.passes.quantize.net_pair import Leave
from tvmopt.passes.quantize.observe import accumulate
from tvmopt.passes.quantize.scaling import power_of_two, spread
from tvmopt.passes.quantize.smooth_sites import SmoothSite, find_sites
from tvmopt.report import Report

_WORTH = 0.7  # of the rounding error: what a product must at most leave
_STRENGTHS = (0.25, 0.5, 0.75, 1.0)
_DATA_STEPS, _WEIGHT_STEPS = 255, 64
_REPAIRED = 0.25


@dataclass(frozen=True, kw_only=True, slots=True)
class SmoothQuantOptions:
    """How much is moved.

    Attributes:
        strength: Share of the difficulty that goes to the weights, in [0, 1]; or "auto", for each
            tensor what leaves the least error.
        where: What is smoothed: what layer norms give ("norms"), or whatever layers read ("all").

    Raises:
        OptionError: A value is outside its domain.
    """

    strength: float | Literal["auto"] = 0.5
    where: Literal["norms", "all"] = "norms"

    def __post_init__(self) -> None:
        if self.where not in ("norms", "all"):
            raise OptionError(f"where must be 'norms' or 'all', got {self.where!r}")
        known = self.strength == "auto" or not isinstance(self.strength, str)
        if not known or not (self.strength == "auto" or 0.0 <= self.strength <= 1.0):
            raise OptionError(f"strength must be in [0, 1] or 'auto', got {self.strength!r}")


class ChannelRanges:
    """What the values of each channel, the last axis, of all batches of a tensor are like.

    Attributes:
        low: (channels,) float64, the least of each, at most 0.
        high: (channels,) float64, the greatest, at least 0.
    """

    def __init__(self, name: str) -> None:
        """Start for the tensor of that name."""
        self._name = name
        self.low = self.high = self._squares = np.zeros(())
        self._rows = 0

    def update(self, values: np.ndarray) -> None:
        """Take in one batch.

        Raises:
            DataError: A value is not finite.
        """
        rows = values.reshape(-1, values.shape[-1]).astype(np.float64)
        self.low, self.high = np.minimum(self.low, rows.min(0)), np.maximum(self.high, rows.max(0))
        if not (np.isfinite(self.low).all() and np.isfinite(self.high).all()):
            raise DataError(
                f"tensor {self._name!r}: values must be finite for every calibration sample, "
                "got NaN or infinities; look at the samples"
            )
        self._squares = self._squares + np.square(rows).sum(0)
        self._rows += len(rows)

    @property
    def largest(self) -> np.ndarray:
        """The largest magnitude of each channel."""
        return np.maximum(-self.low, self.high)

    @property
    def mean_square(self) -> np.ndarray:
        """The mean square of each channel."""
        return np.asarray(self._squares / max(1, self._rows))


def smoothing(activation: np.ndarray, weight: np.ndarray, strength: float) -> np.ndarray:
    """Return the scale of each channel, a power of two.

    Args:
        activation: (channels,), the largest magnitude of each.
        weight: (channels,), the largest magnitude of what reads each.
        strength: Share of the difficulty that goes to the weights, in [0, 1].

    Returns:
        (channels,) float64; 1 where the activation or the weights are 0.
    """
    live = (activation > 0.0) & (weight > 0.0)
    x, w = (np.where(live, values, 1.0) for values in (activation, weight))
    return np.where(live, power_of_two(x**strength / w ** (1.0 - strength)), 1.0)


def rounding_error(seen: ChannelRanges, weights: Sequence[np.ndarray], scale: np.ndarray) -> float:
    """Return the squared error of layers' outputs that rounding is expected to make.

    Data of 8 bits has one step, which all channels together give; a weight of 7 bits one for each
    output. Errors are uniform in a step and independent; repair takes three quarters of what
    rounding the weights alone would make.

    Args:
        seen: Of the tensor that the layers read.
        weights: Of each layer: (channels, taps, outputs).
        scale: (channels,): what values are divided by, and weights multiplied with.
    """
    step = ((seen.high / scale).max() - (seen.low / scale).min()) / _DATA_STEPS
    energy = (seen.mean_square / np.square(scale)).sum()
    total = 0.0
    for weight in weights:
        scaled = np.abs(weight) * scale[:, None, None]
        steps = scaled.max(axis=(0, 1)) / _WEIGHT_STEPS
        total += np.square(step) * np.square(scaled).sum()
        total += _REPAIRED * np.square(steps).sum() * weight.shape[1] * energy
    return float(total / 12.0)


class SmoothQuant:
    """Smooth what layers read, and note in the report what it brought.

    It is no TVM pass: what fails in one of those loses its type.
    """

    def __init__(
        self,
        options: SmoothQuantOptions,
        samples: Samples,
        tap: Tap,
        report: Report,
        *,
        leave: Leave = lambda _: None,
    ) -> None:
        """Take what is needed.

        Args:
            options: How.
            samples: What to run.
            tap: Compiles modules for this machine.
            report: Takes each decision.
            leave: Says which layers stay in floats, and why.
        """
        self.options, self.samples, self.tap, self.report = options, samples, tap, report
        self.leave = leave

    def __call__(self, mod: tvm.IRModule) -> tvm.IRModule:
        """Return the smoothed module; ``mod``, in canonical form, is left as it was.

        Raises:
            DataError: A tensor's values are not finite.
        """
        if not is_plain(mod["main"]):
            self._note("main", applied=False, reason="it has control flow or side effects")
            return mod
        mod = ir.unique_names(mod)
        everywhere = self.options.where == "all"
        sites = list(find_sites(mod, self.leave if everywhere else None))
        if not sites:
            source = "what another kernel gives" if everywhere else "a layer norm"
            self._note("main", applied=False, reason=f"no layer reads {source}")
            return mod
        names = [site.var.name for site in sites]
        seen = accumulate(mod, names, self.samples, self.tap, ChannelRanges)
        scales = {
            site.var: scale
            for site in sites
            if (scale := self._scale(site, seen[site.var.name])) is not None
        }
        return rebuild_main(mod, lambda frame: _rule(frame, scales, sites))

    def _scale(self, site: SmoothSite, seen: ChannelRanges) -> np.ndarray | None:
        weights = site.weights()
        rows = np.max([np.abs(weight).max(axis=(1, 2)) for weight in weights], axis=0)
        tried = list(self._candidates(seen.largest, rows))
        scale = min(tried, key=lambda one: rounding_error(seen, weights, one))
        before = rounding_error(seen, weights, np.ones_like(scale))
        left = rounding_error(seen, weights, scale) / before if before > 0.0 else 1.0
        takes = bool(np.any(scale != 1.0)) and (site.norm or left < _WORTH)
        others = f"; {site.others} other readers take a product" if site.others else ""
        self._note(
            site.var.name,
            applied=takes,
            reason=f"largest over median channel: {spread(seen.largest):.3g} -> "
            f"{spread(seen.largest / scale):.3g} of the values, {spread(rows):.3g} -> "
            f"{spread(rows * scale):.3g} of the weights"
            + (
                others if takes else f"; {left:.0%} of the error would be left, not worth a product"
            ),
        )
        return scale if takes else None

    def _candidates(self, largest: np.ndarray, weights: np.ndarray) -> Iterator[np.ndarray]:
        """Yield scales to choose from."""
        if self.options.strength != "auto":
            yield smoothing(largest, weights, self.options.strength)
            return
        yield np.ones_like(largest)
        for strength in _STRENGTHS:
            yield smoothing(largest, weights, strength)
            yield smoothing(largest, np.where(weights > 0.0, 1.0, 0.0), strength)

    def _note(self, site: str, *, applied: bool, reason: str) -> None:
        self.report.add("SmoothQuant", site, applied=applied, reason=reason)


def _rule(
    frame: Rebuild, scales: Mapping[relax.Var, np.ndarray], sites: Sequence[SmoothSite]
) -> Rule:
    norms = {site.var: site for site in sites if site.norm and site.var in scales}
    source = {
        layer.var: (layer, site.var)
        for site in sites
        for layer in site.readers
        if site.var in scales
    }
    smooth: dict[relax.Var, relax.Expr] = {}

    def rule(var: relax.Var, value: relax.Expr) -> relax.Expr:
        if var in norms:
            norm = _divided(value, scales[var])
            if not norms[var].others:
                return norm
            smooth[var] = frame.emit(norm, f"{var.name}_smooth")
            return relax.op.multiply(smooth[var], relax.const(scales[var].astype(ir.dtype(var))))
        if var not in source:
            return value
        layer, data = source[var]
        scale = scales[data]
        if data not in smooth and data not in norms:
            share = relax.const((1.0 / scale).astype(np.float32))
            product = relax.op.multiply(value.args[0], share)
            smooth[data] = frame.emit(product, f"{data.name}_smooth")
        shape = [-1 if axis == layer.input_axis else 1 for axis in range(layer.weight.ndim)]
        weight = (layer.weight * scale.reshape(shape)).astype(np.float32)
        return ir.with_changes(value, [smooth.get(data, value.args[0]), relax.const(weight)])

    return rule


def _divided(norm: relax.Call, scale: np.ndarray) -> relax.Call:
    """Return a layer norm whose results are divided by the scale."""
    changed = []
    for arg in norm.args[1:]:
        value = ir.float_constant(arg)
        assert value is not None, "only norms by constants were chosen"
        changed.append(relax.const((value / scale).astype(ir.dtype(arg))))
    return ir.with_changes(norm, [norm.args[0], *changed])
