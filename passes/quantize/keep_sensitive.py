"""Let the layers of a quantized net that cost its outputs the most compute in finer numbers again.

Before and after: the same net; of some layers neither weight nor input is quantized any more.

First the net's outputs are compared with those of the floats. Where too much is lost, all layers
may get words instead of bytes (``widen``). Where that does not do, they are ranked by what each
alone does to the outputs (``switches``), an effect for the time that it saves; and the fewest of
the worst are kept in floats for which the loss (``output_loss``), measured on the net that results,
holds. What then no longer pays, such as a layer alone among others in floats, is let go as well.
Cost: two runs of the samples where nothing is to be done; else some more for each layer, of a net
that computes everything twice, and all of quantizing and repairing again where layers get words;
to let go what does not pay lowers the net some ten times and once more for each doubling of layers.

Sources: those of ``sensitivity``; the choice by effect and cost is derived here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
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
from tvmopt.passes.quantize.widen import undone_by_widening, widen
from tvmopt.prediction import Predict
from tvmopt.report import Report

_RANKED_BY = 16  # batches: what ranks layers need not be exact
_TRIES, _NEARER = 4, 0.8
_ALONE = 8  # layers: the fewer cycles one saves, the likelier it does not pay


@dataclass(frozen=True, kw_only=True, slots=True)
class KeepSensitiveOptions:
    """What may be lost before layers stay in floats.

    Attributes:
        most_changed: Where the net ends in a softmax: the share of samples that may be decided
            otherwise, close calls left out, in (0, 1].
        most_error: Else: the squared error of the outputs as a share of their square, in (0, 1].
        widen: Whether, before any, all layers of fixed scales get activations of 16 bits and
            weights of 8; not where the net holds other compressed layers or tables, which that
            would undo.
        batches: How many of the samples' batches are looked at, at least 1.

    Raises:
        OptionError: A value is outside its domain.
    """

    most_changed: float = 0.02
    most_error: float = 0.01
    widen: bool = False
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
        predict: Predict | None = None,
        must_pay: Collection[str] = (),
        progress: Progress = silent,
    ) -> None:
        """Take what is needed.

        Args:
            options: What may be lost.
            reference: The module before it was quantized.
            samples: What to run.
            tap: Compiles modules for this machine.
            report: Takes each decision.
            predict: The cost model of the target; None counts multiplications.
            must_pay: The layers that stay in integers only where that is predicted to be faster.
            progress: Is told of each layer that is ranked, and of each prediction.
        """
        self.options, self.tap, self.report, self.progress = options, tap, report, progress
        self.reference, self.all = reference, samples
        self.samples = samples.spread(options.batches)
        self.predict, self.must_pay = predict, frozenset(must_pay)

    def __call__(self, mod: tvm.IRModule) -> tvm.IRModule:
        """Return the module with some layers in floats; ``mod`` is left as it was.

        Where outputs of the floats are not finite, all is left so, and the report says it.

        Raises:
            DataError: An output is finite in floats and not in integers.
        """
        if not (is_plain(mod["main"]) and is_plain(self.reference["main"])):
            self._note("main", "it has control flow or side effects")
            return mod
        mod, reference = ir.unique_names(mod), ir.unique_names(self.reference)
        if not _layers(mod, reference):
            return mod
        limits = Limits(changed=self.options.most_changed, error=self.options.most_error)
        deciding = [decides(reference, name) for name in output_names(reference)]
        loss = OutputLoss(deciding, self._run(reference, self.samples), limits)
        if loss.not_finite:
            which = ", ".join(map(str, loss.not_finite))
            self._note("main", f"what is lost cannot be told: not finite in floats: output {which}")
            return mod
        lost = self._lost(mod, loss)
        if lost <= 1.0:
            self._note("main", f"{lost:.0%} of what may be lost is; no layer has to stay in floats")
            return mod
        left, new = lost, mod
        if self.options.widen and self._may_widen(mod, reference):
            wide = ir.unique_names(widen(mod, reference, self.all, self.tap, self.progress))
            left = self._lost(wide, loss)
            left, new = (left, wide) if left < lost else (lost, mod)
        wider = new is not mod
        if left > 1.0:
            new = self._keep(new, reference, loss)
        new = self._paying(ir.unique_names(new), reference)
        now = {layer.name for layer in _layers(new, reference)}
        self._tell(
            [one.name for one in _layers(mod, reference)], now, wider, (lost, self._lost(new, loss))
        )
        return new

    def _may_widen(self, mod: tvm.IRModule, reference: tvm.IRModule) -> bool:
        undone = undone_by_widening(mod, reference)
        if undone:
            more = f" and {len(undone) - 1} more" if undone[1:] else ""
            self._note(
                "main",
                "no layer gets 16-bit activations, for that would undo what is compressed without "
                f"fixed scales: {undone[0]}{more}",
            )
        return not undone

    def _keep(self, mod: tvm.IRModule, reference: tvm.IRModule, loss: OutputLoss) -> tvm.IRModule:
        """Return the module with the fewest layers in floats for which the loss holds."""
        layers = _layers(mod, reference)
        choose = self._chooser(mod, reference, layers, loss)
        most = 1.0
        for _ in range(_TRIES):
            kept = choose(most)
            new = in_floats(mod, reference, [layer for layer in layers if layer.name in kept])
            left = self._lost(new, loss)
            if left <= 1.0:
                return new
            # What is stored in integers between layers adds to what the switches tell.
            most *= _NEARER / left
        return reference

    def _paying(self, mod: tvm.IRModule, reference: tvm.IRModule) -> tvm.IRModule:
        """Return the module without the layers of integers that do not make it faster.

        Those that save least are weighed one by one, the others in groups that double.
        """
        names = self.must_pay & {layer.name for layer in _layers(mod, reference)}
        if self.predict is None or not names:
            return mod
        after = self.predict(mod)
        total = sum(after.values())
        gains = _saved(self.predict(reference), after, names)
        groups = doubling(sorted(names, key=lambda name: (gains[name], name)), _ALONE)
        for i, group in enumerate(groups):
            self.progress("weigh layers", i, len(groups))
            some = [layer for layer in _layers(mod, reference) if layer.name in group]
            new = ir.unique_names(in_floats(mod, reference, some))
            time = sum(self.predict(new).values())
            if time <= total:
                mod, total = new, time
        return mod

    def _chooser(
        self,
        mod: tvm.IRModule,
        reference: tvm.IRModule,
        layers: Sequence[WeightLayer],
        loss: OutputLoss,
    ) -> Callable[[float], frozenset[str]]:
        """Return what gives the layers to keep in floats so that no more than a limit is lost."""
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
        gains = self._gains(mod, reference, layers)

        def effect(name: str) -> float:
            self.progress("rank layers", list(gains).index(name), len(gains))
            got = (flat(values) for values in outputs((name,), few))
            return output_distance(got, wanted) / gains[name]

        @cache
        def drop(kept: frozenset[str]) -> float:
            return loss.lost(outputs(gains.keys() - kept, self.samples))

        ranked = rank_layers(list(gains), effect, Report())
        return lambda most: keep_worst(ranked, drop, most, Report()).kept

    def _gains(
        self, mod: tvm.IRModule, reference: tvm.IRModule, layers: Sequence[WeightLayer]
    ) -> dict[str, float]:
        """Return what layers save by integers: predicted cycles or, unknown, multiplications."""
        if self.predict is None:
            return {layer.name: float(_products(layer)) for layer in layers}
        names = [layer.name for layer in layers]
        saved = _saved(self.predict(reference), self.predict(mod), names)
        return {name: max(1.0, cycles) for name, cycles in saved.items()}

    def _lost(self, mod: tvm.IRModule, loss: OutputLoss) -> float:
        return loss.lost(self._run(mod, self.samples))

    def _run(self, mod: tvm.IRModule, samples: Samples) -> Iterator[list[np.ndarray]]:
        names = output_names(mod)
        run = self.tap(mod, names)
        for feed in samples:
            values = run(feed)
            yield [values[name] for name in names]

    def _tell(
        self, every: Sequence[str], now: Collection[str], wider: bool, lost: tuple[float, float]
    ) -> None:
        """Note what became of each layer of integers, by name, and of the loss."""
        kept = len(every) - len(now)
        what = (
            f"{lost[0]:.0%} of what may be lost would be, {lost[1]:.0%} is"
            f"{' with 16-bit activations and 8-bit weights' if wider and now else ''} with "
            f"{kept} of {len(every)} layers kept"
        )
        for name in every:
            if name not in now:
                self._note(name, f"it stays in floats, for it is sensitive: {what}")
            elif wider:
                reason = f"16-bit activations and 8-bit weights: {what}"
                self.report.add("KeepSensitive", name, applied=True, reason=reason)

    def _note(self, site: str, reason: str) -> None:
        self.report.add("KeepSensitive", site, applied=False, reason=reason)


def _layers(mod: tvm.IRModule, reference: tvm.IRModule) -> list[WeightLayer]:
    return list(find_layers(mod, reference, lambda _name, _reason: None))


def doubling(names: Sequence[str], alone: int) -> list[Sequence[str]]:
    """Return names in groups: so many of one, then of two, four, eight and so on."""
    groups, start, size = [names[i : i + 1] for i in range(min(alone, len(names)))], alone, 2
    while start < len(names):
        groups.append(names[start : start + size])
        start, size = start + size, 2 * size
    return groups


def _saved(
    before: Mapping[str, float], after: Mapping[str, float], names: Collection[str]
) -> dict[str, float]:
    return {name: before.get(name, 0.0) - after.get(name, 0.0) for name in names}


def flat(values: Sequence[np.ndarray]) -> np.ndarray:
    """Return all outputs in one row."""
    return np.concatenate([value.reshape(-1) for value in values])


def _products(layer: WeightLayer) -> int:
    """Return how many multiplications a layer takes."""
    return prod(ir.static_shape(layer.reference)[:-1]) * layer.weight.size
