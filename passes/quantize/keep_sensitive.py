"""Let the layers of a quantized net that cost its outputs the most compute in floats again.

Before and after: the same net; of some layers neither weight nor input is quantized any more.

First the net's outputs are compared with those of the floats. Where too much is lost, layers are
ranked by what each alone does to the outputs (``switches``), an effect for each multiplication that
it would cost to compute it in floats; and the fewest of the worst are kept for which the loss
(``output_loss``) holds. Cost: two runs of the samples where nothing is to be done; else some more
for each layer, of a net that computes everything twice.

Sources: those of ``sensitivity``; the choice by effect and cost is derived here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import tvm

from tvmopt import ir
from tvmopt.calibration import Samples, Tap
from tvmopt.errors import OptionError
from tvmopt.passes.canonicalize.rebuild import is_plain
from tvmopt.passes.quantize.float_layers import in_floats
from tvmopt.passes.quantize.observe import Progress, silent
from tvmopt.passes.quantize.output_loss import Limits, OutputLoss, decides, output_names
from tvmopt.passes.quantize.sensitivity import keep_worst, output_distance, rank_layers
from tvmopt.passes.quantize.switches import settings, with_switches
from tvmopt.passes.quantize.weight_layers import WeightLayer, find_layers
from tvmopt.report import Report

_RANKED_BY = 16  # batches: what ranks layers need not be exact


@dataclass(frozen=True, kw_only=True, slots=True)
class KeepSensitiveOptions:
    """What may be lost before layers stay in floats.

    Attributes:
        most_changed: Where the net ends in a softmax: the share of samples that may be decided
            otherwise, close calls left out, in (0, 1].
        most_error: Else: the squared error of the outputs as a share of their square, in (0, 1].
        batches: How many of the samples' batches are looked at, at least 1.

    Raises:
        OptionError: A value is outside its domain.
    """

    most_changed: float = 0.02
    most_error: float = 0.01
    batches: int = 64

    def __post_init__(self) -> None:
        for name in ("most_changed", "most_error"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise OptionError(f"{name} must be in (0, 1], got {getattr(self, name)!r}")
        if self.batches < 1:
            raise OptionError(f"batches must be at least 1, got {self.batches!r}")


class KeepSensitive:
    """Keep what is sensitive in floats, and note in the report what and why.

    It is no TVM pass: what fails in one of those loses its type.
    """

    def __init__(
        self,
        options: KeepSensitiveOptions,
        reference: tvm.IRModule,
        samples: Samples,
        tap: Tap,
        report: Report,
        *,
        progress: Progress = silent,
    ) -> None:
        """Take what is needed.

        Args:
            options: What may be lost.
            reference: The module before it was quantized.
            samples: What to run.
            tap: Compiles modules for this machine.
            report: Takes each decision.
            progress: Is told of each layer that is ranked.
        """
        self.options, self.tap, self.report, self.progress = options, tap, report, progress
        self.reference, self.samples = reference, samples.spread(options.batches)

    def __call__(self, mod: tvm.IRModule) -> tvm.IRModule:
        """Return the module with some layers in floats; ``mod`` is left as it was.

        Raises:
            DataError: An output is not finite.
        """
        if not (is_plain(mod["main"]) and is_plain(self.reference["main"])):
            self._note("main", "it has control flow or side effects")
            return mod
        mod, reference = ir.unique_names(mod), ir.unique_names(self.reference)
        layers = list(find_layers(mod, reference, lambda _name, _reason: None))
        if not layers:
            return mod
        limits = Limits(changed=self.options.most_changed, error=self.options.most_error)
        deciding = [decides(reference, name) for name in output_names(reference)]
        loss = OutputLoss(deciding, self._run(reference, self.samples), limits)
        lost = loss.lost(self._run(mod, self.samples))
        if lost <= 1.0:
            self._note("main", f"{lost:.0%} of what may be lost is; no layer has to stay in floats")
            return mod
        kept = self._choose(mod, reference, layers, loss)
        new = in_floats(mod, reference, [layer for layer in layers if layer.name in kept])
        left = loss.lost(self._run(new, self.samples))
        why = (
            f"it stays in floats, for it is sensitive: {lost:.0%} of what may be lost would be, "
            f"{left:.0%} is with {len(kept)} of {len(layers)} layers kept"
        )
        for name in kept:
            self._note(name, why)
        return new

    def _choose(
        self,
        mod: tvm.IRModule,
        reference: tvm.IRModule,
        layers: Sequence[WeightLayer],
        loss: OutputLoss,
    ) -> frozenset[str]:
        """Return the layers to keep in floats."""
        switched, switches = with_switches(mod, reference, layers)
        names = output_names(switched)
        run = self.tap(switched, names)

        def outputs(quantized: Collection[str], samples: Samples) -> Iterator[list[np.ndarray]]:
            inputs = settings(switches, [layer.name in quantized for layer in layers])
            for feed in samples:
                values = run({**feed, **inputs})
                yield [values[name] for name in names]

        few = self.samples.spread(_RANKED_BY)
        wanted = [flat(values) for values in outputs((), few)]
        products = {layer.name: _products(layer) for layer in layers}

        def effect(name: str) -> float:
            self.progress("rank layers", list(products).index(name), len(products))
            got = (flat(values) for values in outputs((name,), few))
            return output_distance(got, wanted) / products[name]

        def drop(kept: frozenset[str]) -> float:
            return loss.lost(outputs(products.keys() - kept, self.samples))

        ranked = rank_layers(list(products), effect, Report())
        return keep_worst(ranked, drop, 1.0, Report()).kept

    def _run(self, mod: tvm.IRModule, samples: Samples) -> Iterator[list[np.ndarray]]:
        names = output_names(mod)
        run = self.tap(mod, names)
        for feed in samples:
            values = run(feed)
            yield [values[name] for name in names]

    def _note(self, site: str, reason: str) -> None:
        self.report.add("KeepSensitive", site, applied=False, reason=reason)


def flat(values: Sequence[np.ndarray]) -> np.ndarray:
    """Return all outputs in one row."""
    return np.concatenate([value.reshape(-1) for value in values])


def _products(layer: WeightLayer) -> int:
    """Return how many multiplications a layer takes."""
    return prod(ir.static_shape(layer.reference)[:-1]) * layer.weight.size
