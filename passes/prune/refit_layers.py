"""Fit what is left of a net's weights so that it gives what the net as it was gave.

Before and after: the same graph, other values of weights that are not zero, and of biases. First
layer after layer, those that are dense too: what each reads is what the layers before it, fitted
already, make of the samples, and what it is to give is what the net as it was gives (the
*asymmetric* target). Then the layers of each block together, so that the tensor behind it meets
that of the net as it was: a layer behind a sum so makes up for what the others of the sum lost.
Or those of the net together, so that outputs are met too. It needs no labels. It serves after
pruning of weights or channels, and after factorizing.

Cost: each binding of either net runs about three times on every sample; then a few solves a layer,
a block runs forwards and backwards once for each step and batch, and the net once for each pass and
sample. Memory does not grow with the samples: what flows between blocks lies on the disk.

Sources: those of ``refit_rows``, ``tune_block`` and ``tune_net``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.calibration import Samples, Tap
from tvmopt.errors import OptionError
from tvmopt.passes.canonicalize.rebuild import is_plain
from tvmopt.passes.prune.changed import changed
from tvmopt.passes.prune.paired_layers import PairedFloats, paired_layers
from tvmopt.passes.prune.plain_tap import plain_tap
from tvmopt.passes.prune.refit_blocks import Tuning, tuned_blocks
from tvmopt.passes.prune.refit_net import Budget, layers_of_whole, tuned_net
from tvmopt.passes.prune.refit_rows import refit_rows
from tvmopt.passes.quantize.hessian import Moments, MomentSum
from tvmopt.passes.quantize.layers import Layer, find_layers, select
from tvmopt.passes.quantize.net_pair import Errand, NetPair, Progress, stages
from tvmopt.passes.quantize.repair_weights import sampled
from tvmopt.passes.quantize.weight_layers import Build, Change
from tvmopt.report import Report

Scope = Literal["layers", "blocks", "net"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
_LEAST = {"most_inputs": 1, "batches": 1, "steps": 1, "passes": 1, "work": 1, "rows": 1, "seed": 0}


@dataclass(frozen=True, kw_only=True, slots=True)
class RefitLayersOptions:
    """How weights are fitted.

    Attributes:
        scope: "layers" are fitted one by one; "blocks", then tuned block by block; "net", then all
            tuned together, and block by block those of which that cannot be.
        ridge: Pull of a layer towards the weights at hand, as a share of the inputs' mean square,
            in (0, 1].
        rows: About how many rows of each layer's inputs are looked at, at least 1.
        most_inputs: Layers with more weights an output are only tuned with their blocks, at least
            1: the memory for one is about eight matrices of float64 of that size.
        batches: At most how many batches blocks are tuned by, at least 1.
        steps: The most steps of tuning a block, at least 1.
        passes: The most passes over the samples to tune the net as a whole, at least 1.
        work: About how many 10^9 multiply-adds forwards these may take, at least 1; one pass is
            made whatever it takes.
        seed: Of the choice of rows and the order of samples, at least 0.
        layers: Patterns of the names of layers that are fitted.
        skip: Layers that are not, by name, and why.

    Raises:
        OptionError: A value is outside its domain.
    """

    scope: Scope = "net"
    ridge: float = 0.01
    rows: int = 8192
    most_inputs: int = 8192
    batches: int = 256
    steps: int = 12
    passes: int = 30
    work: int = 1000
    seed: int = 0
    layers: tuple[str, ...] = ("*",)
    skip: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0.0 < self.ridge <= 1.0:
            raise OptionError(f"ridge must be in (0, 1], got {self.ridge!r}")
        if self.scope not in SCOPES:
            known = ", ".join(map(repr, SCOPES))
            raise OptionError(f"scope must be one of {known}, got {self.scope!r}")
        for name, low in _LEAST.items():
            if getattr(self, name) < low:
                raise OptionError(f"{name} must be at least {low}, got {getattr(self, name)!r}")


class RefitLayers:
    """Fit the layers of a graph of floats, and note in the report what each fit brought.

    It is no TVM pass: what fails in one of those loses its type.
    """

    def __init__(
        self,
        options: RefitLayersOptions,
        reference: tvm.IRModule,
        samples: Samples | None,
        tap: Tap | None,
        report: Report,
        *,
        outputs: Mapping[str, np.ndarray] | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Take what is needed.

        Args:
            options: How.
            reference: The net as it was.
            samples: What to run; None, for a forecast, changes nothing.
            tap: Compiles modules for this machine; None as ``samples``.
            report: Takes each decision.
            outputs: For each layer that lost or reordered outputs since, by name: the numbers that
                they had; None where none did.
            progress: Is told of each layer and block; None tells nobody.
        """
        self.options, self.reference, self.report = options, reference, report
        self.samples, self.tap, self.progress = samples, tap, progress
        self.outputs = outputs or {}

    def __call__(self, mod: tvm.IRModule) -> tvm.IRModule:
        """Return the module with its weights fitted; ``mod`` is left as it was.

        Raises:
            OptionError: A pattern matches no layer.
            DataError: A layer's values are not finite, or the disk for them is full.
        """
        if self.samples is None or self.tap is None:
            return mod
        if not (is_plain(mod["main"]) and is_plain(self.reference["main"])):
            self._note("main", applied=False, reason="it has control flow or side effects")
            return mod
        errand = Errand(
            pass_name="RefitLayers",
            what="fit layers",
            reference=ir.unique_names(self.reference),
            samples=self.samples,
            tap=plain_tap(self.tap, len(self.samples)),
            report=self.report,
            progress=self.progress,
        )
        mod = self._layer_by_layer(ir.unique_names(mod), errand)
        if self.options.scope == "layers":
            return mod
        return self._together(mod, errand)

    def _together(self, mod: tvm.IRModule, errand: Errand) -> tvm.IRModule:
        """Tune layers together: those of the net by blocks, or of what is not tuned as a whole."""
        options = self.options
        taken = frozenset(layer.name for layer in self._taken(mod))
        how = Tuning(
            batches=options.batches,
            steps=options.steps,
            seed=options.seed,
            outputs=self.outputs,
            taken=taken,
        )
        if options.scope == "blocks":
            return changed(mod, tuned_blocks(mod, errand, how))
        # Blocks first would take the samples by heart that are to say how good the whole is.
        outside = taken - layers_of_whole(mod, errand, how)
        mod = changed(mod, tuned_blocks(mod, errand, replace(how, taken=outside)))
        budget = Budget(passes=options.passes, work=options.work)
        return changed(mod, tuned_net(mod, errand, how, budget))

    def _taken(self, mod: tvm.IRModule) -> list[Layer]:
        layers = find_layers(mod["main"]).values()
        return select(list(layers), self.options.layers, self.options.skip)[0]

    def _layer_by_layer(self, mod: tvm.IRModule, errand: Errand) -> tvm.IRModule:
        layers = list(self._fitting(mod, errand.reference))
        if not layers:
            return mod
        tell = self.progress or (lambda *_: None)
        changes: dict[relax.Var, Build] = {}
        done = 0
        with tempfile.TemporaryDirectory(prefix="tvmopt-refit-") as folder:
            pair = NetPair(mod, errand.reference, layers, errand, Path(folder))
            for stage in stages(layers):
                tell(errand.what, done, len(layers))
                for var, build in self._fit(pair, stage):
                    changes[var] = build
                    pair.compressed.change(var, build)
                done += len(stage)
        tell(errand.what, done, len(layers))
        return changed(mod, changes)

    def _fitting(self, mod: tvm.IRModule, reference: tvm.IRModule) -> Iterator[PairedFloats]:
        """Yield the layers that are fitted by themselves; others are noted."""
        found = dict(paired_layers(mod, reference, self.outputs))
        taken, left = select(list(found), self.options.layers, self.options.skip)
        for layer, reason in left:
            self._note(layer.name, applied=False, reason=reason)
        for layer in taken:
            own, most = found[layer], self.options.most_inputs
            if isinstance(own, str):
                self._note(layer.name, applied=False, reason=own)
            elif own.own.rows().shape[1] > most:
                reason = f"it has more weights an output than the {most} of 'most_inputs'"
                self._note(layer.name, applied=False, reason=reason)
            else:
                yield own

    def _fit(self, pair: NetPair, stage: Sequence[PairedFloats]) -> Iterator[Change]:
        for layer, halves in zip(stage, self._look_at(pair, stage), strict=True):
            has_bias = layer.reference_bias is not None
            fit = refit_rows(layer.own.rows(), halves, self.options.ridge, has_bias=has_bias)
            self._note(
                layer.name,
                applied=True,
                reason=f"fitted: output error {fit.before:.3g} -> {fit.after:.3g} of the output's "
                f"square, {fit.share:.0%} of the correction held on other rows",
            )
            yield from layer.own.changes(fit.rows)

    def _look_at(
        self, pair: NetPair, stage: Sequence[PairedFloats]
    ) -> list[tuple[Moments, Moments]]:
        """Return what layers see and should give, as moments of two halves of the rows."""
        sums = [(_empty(layer), _empty(layer)) for layer in stage]
        share = max(2, self.options.rows // pair.batches)
        for number, (inputs, outputs) in enumerate(pair.run(stage, outputs=False)):
            seed = (self.options.seed, number)
            for layer, halves in zip(stage, sums, strict=True):
                y = layer.wanted(outputs[layer.reference.name])
                rows, wanted = sampled(layer, inputs[layer.data.name], y, share, seed)
                if pair.batches > 1:
                    halves[number % 2].add(rows, wanted)
                else:
                    for half, total in enumerate(halves):
                        total.add(rows[:, half::2], wanted[:, half::2])
        return [_finished(*halves) for halves in sums]

    def _note(self, site: str, *, applied: bool, reason: str) -> None:
        self.report.add("RefitLayers", site, applied=applied, reason=reason)


def _empty(layer: PairedFloats) -> MomentSum:
    has_bias = layer.reference_bias is not None
    return MomentSum(layer.own.rows()[None], has_bias=has_bias, layer=layer.name)


def _finished(one: MomentSum, other: MomentSum) -> tuple[Moments, Moments]:
    first = one.finish()
    return first, other.finish() if other.rows else first  # one row has no other half
