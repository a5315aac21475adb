"""Round the weights of a quantized net again, so that its layers' outputs stay those of the floats.

Before and after, for every layer of ``weight_layers``::

    y = conv2d | matmul(x, weight)      the same operators; other integers, and other scales where
    z = add(y, bias)                    each output has its own; another bias

Layers are taken in order, in *stages*. For each layer of a stage the inputs are those of the net
whose earlier stages are repaired, the outputs wanted those of the net of floats, over rows drawn
from all calibration samples; ``hessian``, ``gptq`` and ``round_weights`` say what is done with
them. A stage of one layer is exact; in a larger one a layer does not see the repair of those before
it in the same stage, and there are fewer parts to compile. Layers that read the same tensor share a
stage at no loss. Cost: each binding of either net runs about once on every sample; then, a layer,
one matrix product of rows by inputs squared, and the solving.

Sources: those of ``gptq`` and ``round_weights``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tvm
from tvm import relax

from tvmopt import forms, ir
from tvmopt.calibration import Samples, Tap
from tvmopt.errors import OptionError
from tvmopt.passes.canonicalize.rebuild import Rebuild, Rule, is_plain, rebuild_main
from tvmopt.passes.quantize.hessian import Moments, MomentSum, choose_positions
from tvmopt.passes.quantize.repair_layer import Repaired, RoundingOptions, repair_layer
from tvmopt.passes.quantize.segments import Build, Segments
from tvmopt.passes.quantize.weight_layers import Bias, WeightLayer, find_layers
from tvmopt.report import Report

Leave = Callable[[str], str | None]
"""Returns why a layer is to be left alone, by its name; None if it is not."""
Progress = Callable[[str, int, int], None]
"""Takes what is under way, how much of it is done, and how much there is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RepairWeightsOptions(RoundingOptions):
    """How the weights of a net are rounded again: those of each layer, and besides.

    Attributes:
        rows: About how many rows of each layer's inputs are looked at, at least 1.
        stage_size: Layers that are repaired at once, at least 1.
        seed: Of the choice of rows, at least 0.

    Raises:
        OptionError: A value is outside its domain.
    """

    rows: int = 8192
    stage_size: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        RoundingOptions.__post_init__(self)  # super() knows not the class that slots make anew
        for name, least in (("rows", 1), ("stage_size", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise OptionError(f"{name} must be at least {least}, got {getattr(self, name)!r}")


class RepairWeights:
    """Repair every layer of integers, and note in the report what each repair brought.

    It is no TVM pass: what fails in one of those loses its type.
    """

    def __init__(
        self,
        options: RepairWeightsOptions,
        reference: tvm.IRModule,
        samples: Samples,
        tap: Tap,
        report: Report,
        *,
        leave: Leave | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Take what is needed.

        Args:
            options: How.
            reference: The module before it was quantized.
            samples: What to run.
            tap: Compiles modules for this machine.
            report: Takes each decision.
            leave: Says which layers are to be left alone; None repairs all.
            progress: Is told of each layer; None tells nobody.
        """
        self.options, self.reference = options, reference
        self.samples, self.tap, self.report = samples, tap, report
        self.leave = leave or (lambda _: None)
        self.progress = progress or (lambda *_: None)

    def __call__(self, mod: tvm.IRModule) -> tvm.IRModule:
        """Return the repaired module; ``mod`` is left as it was.

        Raises:
            DataError: A layer's values are not finite, or the disk for them is full.
        """
        if not (is_plain(mod["main"]) and is_plain(self.reference["main"])):
            self._note("main", applied=False, reason="it has control flow or side effects")
            return mod
        mod, reference = ir.unique_names(mod), ir.unique_names(self.reference)
        layers = list(self._layers(mod, reference))
        if not layers:
            return mod
        done: dict[relax.Var, Repaired] = {}
        with tempfile.TemporaryDirectory(prefix="tvmopt-repair-") as folder:
            nets = _Nets(mod, reference, layers, self.samples, self.tap, Path(folder))
            for stage in stages(layers, self.options.stage_size):
                self.progress("repair weights", len(done), len(layers))
                for layer, moments in nets.look_at(stage, self.options):
                    done[layer.var] = self._repair(layer, moments)
                    nets.change(layer, done[layer.var])
        self.progress("repair weights", len(layers), len(layers))
        changes = dict(change for layer in layers for change in _changes(layer, done[layer.var]))
        return rebuild_main(mod, lambda graph: _rule(graph, changes))

    def _layers(self, mod: tvm.IRModule, reference: tvm.IRModule) -> Iterator[WeightLayer]:
        def note(name: str, reason: str) -> None:
            self._note(name, applied=False, reason=reason)

        for layer in find_layers(mod, reference, note):
            reason = self.leave(layer.name)
            if reason is None:
                yield layer
            else:
                note(layer.name, reason)

    def _repair(self, layer: WeightLayer, moments: Moments) -> Repaired:
        result = repair_layer(layer, moments, self.options)
        few = f", only {result.rows} rows for {moments.inputs.shape[-1]} weights an output"
        self._note(
            layer.name,
            applied=True,
            reason=f"{self.options.method}: output error {result.before:.3g} -> "
            f"{result.after:.3g} of the output's square"
            + (few if result.rows < moments.inputs.shape[-1] else ""),
        )
        return result

    def _note(self, site: str, *, applied: bool, reason: str) -> None:
        self.report.add("RepairWeights", site, applied=applied, reason=reason)


def stages(layers: Sequence[WeightLayer], size: int) -> list[list[WeightLayer]]:
    """Cut layers, in order, into stages that read ``size`` tensors each, the last maybe fewer."""
    result: list[list[WeightLayer]] = []
    for layer in layers:
        last = result[-1] if result else []
        joins = any(other.data.same_as(layer.data) for other in last)
        if last and (len({o.data for o in last}) < size or joins):
            last.append(layer)
        else:
            result.append([layer])
    return result


class _Nets:
    """The compressed and the dense net, run side by side."""

    def __init__(
        self,
        mod: tvm.IRModule,
        reference: tvm.IRModule,
        layers: Sequence[WeightLayer],
        samples: Samples,
        tap: Tap,
        folder: Path,
    ) -> None:
        self.samples = samples
        places = [folder / "compressed", folder / "dense"]
        for place in places:
            place.mkdir()
        self.compressed = Segments(mod, samples, tap, places[0], [i.var for i in layers])
        self.dense = Segments(reference, samples, tap, places[1], [i.reference for i in layers])

    def look_at(
        self, stage: Sequence[WeightLayer], options: RepairWeightsOptions
    ) -> list[tuple[WeightLayer, Moments]]:
        """Run the samples up to a stage's layers, and return what these see and should give."""
        compressed, dense = self.compressed, self.dense
        keep = min(compressed.place[layer.var] for layer in stage)
        done = 1 + max(dense.place[layer.reference] for layer in stage)
        sums = [
            MomentSum(
                layer.with_bias(layer.rows(layer.weight), layer.reference_bias),
                has_bias=layer.bias is not None,
                layer=layer.name,
            )
            for layer in stage
        ]
        share = max(1, options.rows // len(self.samples))
        with (
            compressed.part([layer.data for layer in stage], keep) as run,
            dense.part([layer.reference for layer in stage], done) as run_dense,
        ):
            for number, feed in enumerate(self.samples):
                inputs, outputs = run(number, feed), run_dense(number, feed)
                seed = (options.seed, number)
                for layer, total in zip(stage, sums, strict=True):
                    x, y = inputs[layer.data.name], outputs[layer.reference.name]
                    total.add(*sampled(layer, x, y, share, seed))
        return [(layer, total.finish()) for layer, total in zip(stage, sums, strict=True)]

    def change(self, layer: WeightLayer, repaired: Repaired) -> None:
        """Let the compressed net go on with what became of a layer."""
        for var, build in _changes(layer, repaired):
            self.compressed.change(var, build)


def sampled(
    layer: WeightLayer, x: np.ndarray, y: np.ndarray, share: int, seed: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Return some rows of a layer's inputs in one net and its outputs in another.

    Args:
        layer: The layer.
        x: Its data, one batch.
        y: Its outputs without the bias, the same batch.
        share: At most how many rows.
        seed: Of the choice.

    Returns:
        (groups, rows, inputs) and (groups, rows, outputs of a group), the bias added.
    """
    image = (x.reshape(-1, 1, 1, x.shape[-1]), y.reshape(-1, 1, 1, y.shape[-1]))
    data, result = image if layer.is_matmul else (x, y)
    places = choose_positions(int(np.prod(result.shape[:3])), share, seed)
    rows = layer.patches.rows(data, (result.shape[1], result.shape[2]), places)
    wanted = result.reshape(-1, result.shape[-1])[places].astype(np.float64)
    if layer.reference_bias is not None:
        wanted += layer.reference_bias
    split = wanted.reshape(len(places), layer.patches.groups, -1)
    return rows, split.transpose(1, 0, 2)


def _changes(layer: WeightLayer, repaired: Repaired) -> Iterator[tuple[relax.Var, Build]]:
    """Yield the variables that are bound to something else, and how that is built."""
    yield layer.held, lambda _, emit: repaired.stored.build(emit, layer.held.name)
    if layer.bias is not None and repaired.bias is not None:
        yield change_bias(layer.bias, repaired.stored, repaired.bias)


def change_bias(bias: Bias, stored: forms.Stored, value: np.ndarray) -> tuple[relax.Var, Build]:
    """Return what must change for a layer's bias to be ``value``, (outputs,) float64.

    Args:
        bias: The bias at hand.
        stored: The layer's weight as it will be.
        value: The new one.
    """
    if bias.data is None or not isinstance(stored, forms.Dequantized):
        plain = relax.const(value.astype(np.float32).reshape(bias.shape))
        places = (0, 1)
        return bias.var, lambda total, _: ir.with_changes(
            total, [plain if i == bias.place else total.args[i] for i in places]
        )
    assert bias.held is not None
    held, how = bias.held, forms.bias_how(bias.data, stored.how, len(bias.shape) - 1)
    limits = np.iinfo(np.int32)
    # As wide as accumulators are; nothing that was calibrated comes near the ends.
    codes = np.clip(np.rint(value / how.scale.astype(np.float64)), limits.min, limits.max)
    constant = forms.Dequantized(codes=codes.astype(np.int32).reshape(bias.shape), how=how)
    return held, lambda _, emit: constant.build(emit, held.name)


def _rule(graph: Rebuild, changes: Mapping[relax.Var, Build]) -> Rule:
    def rule(var: relax.Var, value: relax.Expr) -> relax.Expr:
        return changes[var](value, graph.emit) if var in changes else value

    return rule
