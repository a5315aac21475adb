"""Go through a quantized net layer by layer, the net of floats beside it, and change it on the way.

Layers are taken in order, so that what each gets is what the layers before it, changed already,
make of the samples. Only those that read the same tensor are looked at together. To look at several
layers of a chain at once would save compiling, but each would make up for errors that the layers
before it make up for themselves: in stages of 8 layers, EfficientNet-lite0 was repaired to death.
Cost: each binding of either net runs about once on every sample.

Source: none; derived here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.calibration import Samples, Tap
from tvmopt.passes.canonicalize.rebuild import Rebuild, Rule, is_plain, rebuild_main
from tvmopt.passes.quantize.segments import Segments
from tvmopt.passes.quantize.weight_layers import (
    Build,
    Change,
    PairedLayer,
    WeightLayer,
    find_layers,
)
from tvmopt.report import Report

Leave = Callable[[str], str | None]
"""Returns why a layer is to be left alone, by its name; None if it is not."""
Progress = Callable[[str, int, int], None]
"""Takes what is under way, how much of it is done, and how much there is."""
Values = Mapping[str, np.ndarray]
Revise = Callable[["NetPair", Sequence[WeightLayer]], Iterator[Change]]
"""Looks at a stage and yields what changes there."""
Some = TypeVar("Some", bound=PairedLayer)


@dataclass(frozen=True, kw_only=True, slots=True)
class Errand:
    """What a pass that goes through a net needs, but for how it changes a layer.

    Attributes:
        pass_name: The pass, for the report.
        what: What is under way, for who watches.
        reference: The module before it was quantized.
        samples: What to run.
        tap: Compiles modules for this machine.
        report: Takes why a layer is left alone.
        leave: Says which layers are to be left alone; None takes all.
        progress: Is told how far it is; None tells nobody.
    """

    pass_name: str
    what: str
    reference: tvm.IRModule
    samples: Samples
    tap: Tap
    report: Report
    leave: Leave | None = None
    progress: Progress | None = None

    def note(self, site: str, *, applied: bool, reason: str) -> None:
        """Note a decision."""
        self.report.add(self.pass_name, site, applied=applied, reason=reason)

    def layers(self, mod: tvm.IRModule, reference: tvm.IRModule) -> Iterator[WeightLayer]:
        """Yield the layers to change; those that are left are noted."""

        def note(name: str, reason: str) -> None:
            self.note(name, applied=False, reason=reason)

        for layer in find_layers(mod, reference, note):
            reason = self.leave(layer.name) if self.leave is not None else None
            if reason is None:
                yield layer
            else:
                note(layer.name, reason)


def revise_layers(mod: tvm.IRModule, errand: Errand, revise: Revise) -> tvm.IRModule:
    """Return the module with its layers changed; ``mod`` is left as it was.

    Args:
        mod: A quantized module.
        errand: What is needed.
        revise: Says what changes.

    Raises:
        DataError: The disk for tensors between parts is full, or what ``revise`` raises.
    """
    if not (is_plain(mod["main"]) and is_plain(errand.reference["main"])):
        errand.note("main", applied=False, reason="it has control flow or side effects")
        return mod
    mod, reference = ir.unique_names(mod), ir.unique_names(errand.reference)
    layers = list(errand.layers(mod, reference))
    if not layers:
        return mod
    tell = errand.progress or (lambda *_: None)
    changes: dict[relax.Var, Build] = {}
    done = 0
    with tempfile.TemporaryDirectory(prefix="tvmopt-repair-") as folder:
        pair = NetPair(mod, reference, layers, errand, Path(folder))
        for stage in stages(layers):
            tell(errand.what, done, len(layers))
            for var, build in revise(pair, stage):
                changes[var] = build
                pair.compressed.change(var, build)
            done += len(stage)
    tell(errand.what, done, len(layers))
    return rebuild_main(mod, lambda graph: _rule(graph, changes))


def stages(layers: Sequence[Some]) -> list[list[Some]]:
    """Cut layers, in order, into runs that read the same tensor."""
    result: list[list[Some]] = []
    for layer in layers:
        if result and result[-1][0].data.same_as(layer.data):
            result[-1].append(layer)
        else:
            result.append([layer])
    return result


class NetPair:
    """The compressed and the dense net, run side by side.

    Attributes:
        compressed: How far the compressed net has come.
        dense: How far the net of floats has come.
    """

    def __init__(
        self,
        mod: tvm.IRModule,
        reference: tvm.IRModule,
        layers: Sequence[PairedLayer],
        errand: Errand,
        folder: Path,
    ) -> None:
        """Stand before the first layer."""
        self._samples = errand.samples
        ends = [layer.var for layer in layers], [layer.reference for layer in layers]
        places = folder / "compressed", folder / "dense"
        for place in places:
            place.mkdir()
        self.compressed, self.dense = (
            Segments(net, errand.samples, errand.tap, place, last)
            for net, place, last in zip((mod, reference), places, ends, strict=True)
        )

    @property
    def batches(self) -> int:
        """How many batches there are."""
        return len(self._samples)

    def run(
        self, stage: Sequence[PairedLayer], *, outputs: bool
    ) -> Iterator[tuple[Values, Values]]:
        """Yield, batch by batch, what layers see or give here and what they give in floats.

        The compressed net then stands before the first layer of the stage, the other behind its
        last. Take all batches.

        Args:
            stage: The layers.
            outputs: Whether the compressed net gives the operators' outputs, not their data.
        """
        keep = min(self.compressed.place[layer.var] for layer in stage)
        done = 1 + max(self.dense.place[layer.reference] for layer in stage)
        wanted = [layer.var if outputs else layer.data for layer in stage]
        with (
            self.compressed.part(wanted, keep) as run,
            self.dense.part([layer.reference for layer in stage], done) as run_dense,
        ):
            for number, feed in enumerate(self._samples):
                yield run(number, feed), run_dense(number, feed)


def _rule(graph: Rebuild, changes: Mapping[relax.Var, Build]) -> Rule:
    def rule(var: relax.Var, value: relax.Expr) -> relax.Expr:
        return changes[var](value, graph.emit) if var in changes else value

    return rule
