"""Move the outliers of activations into the weights that read them.

Before::

    y = layer_norm(x, gamma, beta);   z_i = matmul(y, W_i)

After, with a scale s for each channel of y::

    y = layer_norm(x, gamma / s, beta / s);   z_i = matmul(y, s W_i)

and whatever else reads y reads y * s. Each s is a power of two, so that all z_i are the same bits.
A few channels of a transformer's activations are many times larger than all others; with one scale
for the tensor, or for a row, they leave few levels to the rest. With
``s = max|y|^strength / max|W|^(1 - strength)``, weights share that burden. Cost: none at run time
where only matmuls read y; else one multiplication for each of its elements.

Source: G. Xiao et al., "SmoothQuant: accurate and efficient post-training quantization for large
language models", ICML 2023, equation 4 (their alpha is ``strength``). Powers of two, and the
product for other readers, are derived here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.calibration import Samples, Tap
from tvmopt.errors import DataError, OptionError
from tvmopt.passes.canonicalize.rebuild import Rebuild, Rule, is_plain, rebuild_main
from tvmopt.passes.quantize.observe import accumulate
from tvmopt.passes.quantize.scaling import power_of_two, spread
from tvmopt.passes.quantize.weight_layers import Reader
from tvmopt.report import Report


@dataclass(frozen=True, kw_only=True, slots=True)
class SmoothQuantOptions:
    """How much is moved.

    Attributes:
        strength: Share of the difficulty that goes to the weights, in [0, 1].

    Raises:
        OptionError: It is outside that range.
    """

    strength: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 <= self.strength <= 1.0:
            raise OptionError(f"strength must be in [0, 1], got {self.strength!r}")


class LargestOfChannels:
    """The largest magnitude of each channel, the last axis, of all batches of a tensor.

    Attributes:
        largest: (channels,) float64.
    """

    def __init__(self, name: str) -> None:
        """Start for the tensor of that name."""
        self._name = name
        self.largest = np.zeros(())

    def update(self, values: np.ndarray) -> None:
        """Take in one batch.

        Raises:
            DataError: A value is not finite.
        """
        batch = np.abs(values.reshape(-1, values.shape[-1])).max(axis=0)
        if not np.isfinite(batch).all():
            raise DataError(
                f"tensor {self._name!r}: values must be finite for every calibration sample, "
                "got NaN or infinities; look at the samples"
            )
        self.largest = np.maximum(self.largest, batch)


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


class SmoothQuant:
    """Smooth what layer norms give to matmuls, and note in the report what it brought.

    It is no TVM pass: what fails in one of those loses its type.
    """

    def __init__(
        self, options: SmoothQuantOptions, samples: Samples, tap: Tap, report: Report
    ) -> None:
        """Take what is needed.

        Args:
            options: How.
            samples: What to run.
            tap: Compiles modules for this machine.
            report: Takes each decision.
        """
        self.options, self.samples, self.tap, self.report = options, samples, tap, report

    def __call__(self, mod: tvm.IRModule) -> tvm.IRModule:
        """Return the smoothed module; ``mod``, in canonical form, is left as it was.

        Raises:
            DataError: A layer norm's values are not finite.
        """
        if not is_plain(mod["main"]):
            self._note("main", applied=False, reason="it has control flow or side effects")
            return mod
        mod = ir.unique_names(mod)
        graph = Reader(mod)
        readers = {var: _matmuls(graph, var) for var in _norms(graph)}
        readers = {var: found for var, found in readers.items() if found}
        if not readers:
            self._note("main", applied=False, reason="no matmul by a constant reads a layer norm")
            return mod
        names = [var.name for var in readers]
        seen = accumulate(mod, names, self.samples, self.tap, LargestOfChannels)
        scales = {
            var: self._scale(graph, var, found, seen[var.name].largest)
            for var, found in readers.items()
        }
        return rebuild_main(mod, lambda frame: _rule(frame, scales, readers))

    def _scale(
        self, graph: Reader, var: relax.Var, found: list[relax.Var], largest: np.ndarray
    ) -> np.ndarray:
        weights = [np.abs(_value(graph.values[user].args[1])) for user in found]
        rows = np.max([weight.max(axis=1) for weight in weights], axis=0).astype(np.float64)
        scale = smoothing(largest.astype(np.float64), rows, self.options.strength)
        others = len(graph.users[var]) - len(found)
        self._note(
            var.name,
            applied=bool(np.any(scale != 1.0)),
            reason=f"largest over median channel: {spread(largest):.3g} -> "
            f"{spread(largest / scale):.3g} of the values, {spread(rows):.3g} -> "
            f"{spread(rows * scale):.3g} of the weights"
            + (f"; {others} other readers take a product" if others else ""),
        )
        return scale

    def _note(self, site: str, *, applied: bool, reason: str) -> None:
        self.report.add("SmoothQuant", site, applied=applied, reason=reason)


def _norms(graph: Reader) -> Iterator[relax.Var]:
    """Yield layer norms over the last axis with constant gamma and beta."""
    for var, value in graph.values.items():
        if not ir.is_call_to(value, "relax.nn.layer_norm"):
            continue
        rank = len(ir.shape(var))
        last = [int(axis) % rank for axis in value.attrs.axes] == [rank - 1]
        result = isinstance(graph.result, relax.Var) and graph.result.same_as(var)
        if last and not result and all(ir.float_constant(a) is not None for a in value.args[1:]):
            yield var


def _matmuls(graph: Reader, var: relax.Var) -> list[relax.Var]:
    """Return the matmuls of ``var`` by a constant matrix."""
    found = []
    for user in graph.users.get(var, []):
        value = graph.values[user]
        if ir.is_call_to(value, "relax.matmul") and value.args[0].same_as(var):
            weight = ir.float_constant(value.args[1])
            if weight is not None and weight.ndim == 2:
                found.append(user)
    return found


def _value(expr: relax.Expr) -> np.ndarray:
    value = ir.float_constant(expr)
    assert value is not None, "only constants were chosen"
    return value


def _rule(
    frame: Rebuild, scales: dict[relax.Var, np.ndarray], readers: dict[relax.Var, list[relax.Var]]
) -> Rule:
    source = {user: var for var, users in readers.items() for user in users}
    smooth: dict[relax.Var, relax.Expr] = {}

    def rule(var: relax.Var, value: relax.Expr) -> relax.Expr:
        if var in scales:
            changed = [
                relax.const((_value(arg) / scales[var]).astype(ir.dtype(arg)))
                for arg in value.args[1:]
            ]
            norm = ir.with_changes(value, [value.args[0], *changed])
            if len(readers[var]) == len(frame.users[var]):
                return norm
            smooth[var] = frame.emit(norm, f"{var.name}_smooth")
            scale = relax.const(scales[var].astype(ir.dtype(var)))
            return relax.op.multiply(smooth[var], scale)
        if var in source:
            weight = _value(value.args[1])
            scaled = (weight * scales[source[var]][:, None]).astype(weight.dtype)
            data = smooth.get(source[var], value.args[0])
            return ir.with_changes(value, [data, relax.const(scaled)])
        return value

    return rule
