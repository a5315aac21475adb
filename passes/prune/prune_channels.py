"""Take whole channels out of a net, and let the layers that read them make up for it.

Before and after, for the channels ``i`` that are kept of a group of them (``channel_groups``)::

    y = conv2d(x, w1) + b1;  z = conv2d(act(y), w2) + b2        w1[i], b1[i];  v2[:, :, :, i], c2

The result is a smaller dense net: n of m channels of a layer's outputs and inputs take about (n/m)
of the time each. ``v2`` and ``c2`` are fitted by least squares to what the layer gives in the net
as it was, from what it reads in the net as it is then (the *asymmetric* target); the mean of what
is gone ends in ``c2``. Groups that would not get faster stay. Cost: the net runs once on the
samples for the choice; then each binding of either net once on every sample; and, a layer, inverses
of its inputs.

Sources: Y. He, X. Zhang and J. Sun, "Channel pruning for accelerating very deep neural networks",
ICCV 2017, for fitting what reads the channels; the choice is that of ``channel_loss``; which
channels must go together is that of ``channel_groups``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.calibration import Samples, Tap
from tvmopt.passes.canonicalize.rebuild import is_plain
from tvmopt.passes.prune.changed import changed
from tvmopt.passes.prune.channel_budget import Choice, share_out
from tvmopt.passes.prune.channel_candidates import Candidate, find_candidates, gains, gone_inputs
from tvmopt.passes.prune.channel_effects import output_effects
from tvmopt.passes.prune.channel_fit import FitOptions, dense_moments, fit_readers
from tvmopt.passes.prune.channel_groups import ChannelGroup, Channels
from tvmopt.passes.prune.channel_loss import Importance, Ladder, Reader, descend
from tvmopt.passes.prune.channel_options import PruneChannelsOptions
from tvmopt.passes.prune.float_layers import FloatLayer, float_layers
from tvmopt.passes.prune.take_channels import take_channels, taken_outputs
from tvmopt.passes.quantize.hessian import regularized
from tvmopt.passes.quantize.layers import check_patterns
from tvmopt.passes.quantize.net_pair import Errand, Progress
from tvmopt.passes.quantize.weight_layers import Build
from tvmopt.prediction import Predict
from tvmopt.report import Report


class PruneChannels:
    """Prune the channels of a graph of floats, and note in the report what went and what stayed.

    It is no TVM pass: what fails in one of those loses its type.

    Attributes:
        outputs: After a call, for each layer that lost outputs, by its name: the number of each
            output among those that it had, (outputs,).
    """

    def __init__(
        self,
        options: PruneChannelsOptions,
        samples: Samples | None,
        tap: Tap | None,
        report: Report,
        *,
        predict: Predict,
        must_pay: Collection[str] | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Take what is needed.

        Args:
            options: How.
            samples: What to run; None judges by the weights alone and fits nothing, for a forecast.
            tap: Compiles modules for this machine; None as ``samples``.
            report: Takes each decision.
            predict: The cost model of the target.
            must_pay: The layers that stay as they are unless the net gets faster; None for all.
            progress: Is told of slow work; None tells nobody.
        """
        self.options, self.samples, self.tap, self.report = options, samples, tap, report
        self.predict, self.must_pay = predict, must_pay
        self.outputs: dict[str, np.ndarray] = {}
        self.progress: Callable[[str, int, int], None] = progress or (lambda *_: None)

    def __call__(self, mod: tvm.IRModule) -> tvm.IRModule:
        """Return the pruned module; ``mod``, in canonical form, is left as it was.

        Raises:
            OptionError: A pattern matches no layer, or a Hessian is singular.
            DataError: A layer's values are not finite, or the disk for them is full.
        """
        if not is_plain(mod["main"]):
            self._note("main", applied=False, reason="it has control flow or side effects")
            return mod
        mod = ir.unique_names(mod)
        channels = Channels(mod)
        candidates, saves = self._paying(channels, self._candidates(channels))
        if not candidates:
            return mod
        ladders = self._ladders(mod, candidates)
        counts = self._choose(channels, candidates, saves, ladders)
        self._tell(candidates, counts)
        found = zip(candidates, ladders, counts, strict=True)
        kept = {one: ladder.kept(count) for one, ladder, count in found if count < one.group.size}
        if not kept:
            return mod
        takes = {one.group.name: one.indices(units) for one, units in kept.items()}
        if self.samples is not None and self.tap is not None:
            mod = changed(mod, self._fitted(mod, kept))
        else:
            for layer, gone in gone_inputs(mod, kept):
                self._note(layer.name, applied=True, reason=f"{len(gone)} of its inputs will go")
        final = Channels(mod)
        self.outputs = taken_outputs(final, takes)
        return take_channels(final, takes)

    def _candidates(self, channels: Channels) -> list[Candidate]:
        """Return the groups that may lose units; the others are noted."""
        layers = dict(float_layers(channels.mod, channels.mod))
        check_patterns(list(layers), [*self.options.layers, *self.options.skip])
        outer = {group.within for group in channels.groups}

        def leave(group: ChannelGroup) -> str:
            names = {p.name for p in (*group.producers, *group.consumers, *group.through)}
            why = [self.options.skip[name] for name in sorted(names & {*self.options.skip})]
            if why:
                return why[0]
            if (group.within or group.name in outer) and not self.options.heads:
                return "heads are left as they are"
            makes = [port.name for port in (*group.producers, *group.through)]
            patterns = self.options.layers
            if not any(fnmatchcase(name, pattern) for name in makes for pattern in patterns):
                return "no pattern of 'layers' matches it"
            return ""

        found = []
        for group, candidate in find_candidates(
            channels,
            {layer.name: self._usable(which) for layer, which in layers.items()},
            align=self.options.align,
            most=self.options.most,
            leave=leave,
        ):
            if isinstance(candidate, Candidate):
                found.append(candidate)
            else:
                self._note_group(group, applied=False, reason=candidate)
        return found

    def _usable(self, layer: FloatLayer | str) -> FloatLayer | str:
        """Return a layer; or why it cannot be fitted."""
        if isinstance(layer, str):
            return layer
        most = self.options.most_inputs
        inputs = layer.layer.weight.size // layer.layer.outputs
        return f"it reads {inputs} inputs, more than {most}" if inputs > most else layer

    def _paying(
        self, channels: Channels, candidates: Sequence[Candidate]
    ) -> tuple[list[Candidate], list[tuple[float, ...]]]:
        """Return the candidates that get faster, and the shares of time saved; others are noted."""
        found: list[Candidate] = []
        saves: list[tuple[float, ...]] = []
        every = gains(channels, candidates, self.predict) if candidates else []
        for candidate, saved in zip(candidates, every, strict=True):
            if self._must_pay(candidate) and max(saved) <= 0.0:
                reason = f"it is not faster with fewer of its {candidate.group.size} channels"
                self._note_group(candidate.group, applied=False, reason=reason)
            else:
                found.append(candidate)
                saves.append(saved)
        return found, saves

    def _ladders(self, mod: tvm.IRModule, candidates: Sequence[Candidate]) -> list[Ladder]:
        """Return in which order the units of each candidate go, and what that loses."""
        importance: Importance = self.options.importance
        if self.samples is None or self.tap is None or importance == "magnitude":
            return [descend([], one.made, one.counts, "magnitude") for one in candidates]
        seen = self._readers(mod, candidates, self.samples, self.tap)
        ladders = []
        for number, (one, readers) in enumerate(zip(candidates, seen, strict=True)):
            self.progress("choose channels", number, len(candidates))
            ladders.append(descend(readers, one.made, one.counts, importance))
        if self.options.allocation == "uniform":
            return ladders
        effects = output_effects(
            mod, candidates, seen, ladders, self.samples, self.tap, self.progress
        )
        return [
            replace(ladder, losses=tuple(effect * loss for loss in ladder.losses))
            for ladder, effect in zip(ladders, effects, strict=True)
        ]

    def _readers(
        self, mod: tvm.IRModule, candidates: Sequence[Candidate], samples: Samples, tap: Tap
    ) -> list[list[Reader]]:
        """Return what reads the channels of each candidate, as least squares sees it."""
        layers = {layer.name: layer for one in candidates for layer, _ in one.readers}
        known: dict[str, tuple[np.ndarray, float]] = {}
        for name, moments in dense_moments(
            mod, [*layers.values()], samples, tap, self._fit, self.progress
        ):
            has_bias = layers[name].reference_bias is not None
            hessian = regularized(moments.inputs, self.options.ridge, has_bias=has_bias)[0]
            known[name] = hessian, float(moments.wanted.sum()) or 1.0
        return [
            [
                Reader(
                    weight=layer.rows(),
                    hessian=known[layer.name][0],
                    energy=known[layer.name][1],
                    places=places,
                )
                for layer, places in one.readers
            ]
            for one in candidates
        ]

    def _choose(
        self,
        channels: Channels,
        candidates: Sequence[Candidate],
        saves: Sequence[tuple[float, ...]],
        ladders: Sequence[Ladder],
    ) -> list[int]:
        """Return how many units each candidate keeps."""
        before = sum(self.predict(channels.mod).values())

        def saved(counts: Sequence[int]) -> float:
            takes = {
                one.group.name: one.first(count)
                for one, count in zip(candidates, counts, strict=True)
                if count < one.group.size
            }
            after = sum(self.predict(take_channels(channels, takes)).values()) if takes else before
            return 1.0 - after / before

        choices = []
        for one, gained, ladder in zip(candidates, saves, ladders, strict=True):
            every = zip(one.counts, ladder.losses, gained, strict=True)
            steps = [step for step in every if step[2] > 0.0 or not self._must_pay(one)]
            counts, losses, gains_of = zip(*steps, strict=True)
            width = one.group.producers[0].positions.shape[1] if one.group.producers else 1
            choices.append(
                Choice(
                    size=one.group.size, width=width, counts=counts, losses=losses, gains=gains_of
                )
            )
        chosen = share_out(choices, self.options.allocation, self.options.ratio, saved)
        if any(map(self._must_pay, candidates)) and saved(chosen) <= 0.0:
            self._note("main", applied=False, reason="the net is predicted to be no faster")
            return [one.group.size for one in candidates]
        return chosen

    def _must_pay(self, candidate: Candidate) -> bool:
        return self.must_pay is None or any(name in self.must_pay for name in candidate.layers)

    @property
    def _fit(self) -> FitOptions:
        options = self.options
        return FitOptions(
            rows=options.rows, seed=options.seed, ridge=options.ridge, repair=options.repair
        )

    def _fitted(
        self, mod: tvm.IRModule, kept: Mapping[Candidate, np.ndarray]
    ) -> dict[relax.Var, Build]:
        """Return what must change for the layers to do without the channels that go."""
        assert self.samples is not None
        assert self.tap is not None
        errand = Errand(
            pass_name="PruneChannels",
            what="prune channels",
            reference=mod,
            samples=self.samples,
            tap=self.tap,
            report=self.report,
            progress=self.progress,
        )
        return fit_readers(mod, gone_inputs(mod, kept), errand, self._fit)

    def _tell(self, candidates: Sequence[Candidate], counts: Sequence[int]) -> None:
        """Note what becomes of each group."""
        for one, count in zip(candidates, counts, strict=True):
            size = one.group.size
            left = f"{count} of {size} {one.unit} are left"
            stay = f"its {size} {one.unit} stay: others cost less for what they save"
            self._note_group(one.group, applied=count < size, reason=left if count < size else stay)

    def _note_group(self, group: ChannelGroup, *, applied: bool, reason: str) -> None:
        names = [port.name for port in (*group.producers, *group.through)]
        for name in dict.fromkeys(names):
            self._note(name, applied=applied, reason=reason)

    def _note(self, site: str, *, applied: bool, reason: str) -> None:
        self.report.add("PruneChannels", site, applied=applied, reason=reason)
