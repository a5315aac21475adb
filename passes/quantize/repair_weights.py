"""Round the weights of a quantized net again, so that its layers' outputs stay those of the floats.

Before and after, for every layer of ``weight_layers``::

    y = conv2d | matmul(x, weight)      the same operators; other integers, and other scales where
    z = add(y, bias)                    each output has its own; another bias

Layers are taken in order, in stages; see ``net_pair``. For each layer the inputs are those of the
net that is repaired so far, the outputs wanted those of the net of floats, over rows drawn from all
calibration samples; ``hessian``, ``gptq`` and ``round_weights`` say what is done with them. Cost:
each binding of either net runs about once on every sample; then, a layer, one matrix product of
rows by inputs squared, and the solving.

Sources: those of ``gptq`` and ``round_weights``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import tvm

from tvmopt.calibration import Samples, Tap
from tvmopt.errors import OptionError
from tvmopt.passes.quantize.hessian import Moments, MomentSum, choose_positions
from tvmopt.passes.quantize.net_pair import Errand, Leave, NetPair, Progress, revise_layers
from tvmopt.passes.quantize.repair_layer import Repaired, RoundingOptions, repair_layer
from tvmopt.passes.quantize.weight_layers import (
    Change,
    PairedLayer,
    WeightLayer,
    change_bias,
)
from tvmopt.report import Report


@dataclass(frozen=True, kw_only=True, slots=True)
class RepairWeightsOptions(RoundingOptions):
    """How the weights of a net are rounded again: those of each layer, and besides.

    Attributes:
        rows: About how many rows of each layer's inputs are looked at, at least 1.
        most_inputs: Layers with more weights an output are left as they are, at least 1: the memory
            for one is about eight matrices of float64 of that size.
        seed: Of the choice of rows, at least 0.

    Raises:
        OptionError: A value is outside its domain.
    """

    rows: int = 8192
    most_inputs: int = 8192
    seed: int = 0

    def __post_init__(self) -> None:
        RoundingOptions.__post_init__(self)  # super() knows not the class that slots make anew
        for name, least in (("rows", 1), ("most_inputs", 1), ("seed", 0)):
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
            progress: Is told of each stage; None tells nobody.
        """
        self.options = options
        self.errand = Errand(
            pass_name="RepairWeights",
            what="repair weights",
            reference=reference,
            samples=samples,
            tap=tap,
            report=report,
            leave=leave,
            progress=progress,
        )

    def __call__(self, mod: tvm.IRModule) -> tvm.IRModule:
        """Return the repaired module; ``mod`` is left as it was.

        Raises:
            DataError: A layer's values are not finite, or the disk for them is full.
        """
        return revise_layers(mod, self.errand, self._revise)

    def _revise(self, pair: NetPair, stage: Sequence[WeightLayer]) -> Iterator[Change]:
        fitting = [layer for layer in stage if self._fits(layer)]
        if not fitting:
            return
        for layer, halves in zip(fitting, look_at(pair, fitting, self.options), strict=True):
            repaired = repair_layer(layer, halves, self.options)
            self._note(layer, repaired)
            yield from _changes(layer, repaired)

    def _fits(self, layer: WeightLayer) -> bool:
        inputs, most = layer.rows(layer.weight).shape[-1], self.options.most_inputs
        if inputs > most:
            reason = f"it has {inputs} weights an output, 'most_inputs' allows {most}"
            self.errand.note(layer.name, applied=False, reason=reason)
        return inputs <= most

    def _note(self, layer: WeightLayer, result: Repaired) -> None:
        trust = f", {result.share:.0%} of the correction held on other rows"
        self.errand.note(
            layer.name,
            applied=True,
            reason=f"{self.options.method}: output error {result.before:.3g} -> {result.after:.3g} "
            "of the output's square" + (trust if self.options.asymmetric else ""),
        )


def look_at(
    pair: NetPair, stage: Sequence[WeightLayer], options: RepairWeightsOptions
) -> list[tuple[Moments, Moments]]:
    """Run the samples up to a stage's layers, and return what these see and should give.

    Returns:
        For each layer the moments of two halves of the rows, as ``half_sums`` cuts them.
    """
    sums = [(_empty(layer), _empty(layer)) for layer in stage]
    share = max(1, options.rows // pair.batches)
    half_sums(pair, stage, sums, share, options.seed)
    return [_finished(*halves) for halves in sums]


def half_sums(
    pair: NetPair,
    stage: Sequence[PairedLayer],
    sums: Sequence[tuple[MomentSum, MomentSum]],
    share: int,
    seed: int,
) -> None:
    """Run the samples up to a stage's layers, and add up what these see and should give.

    Args:
        pair: The net as it is, and as it was.
        stage: The layers.
        sums: For each layer those of two halves of the rows: of every other batch, or of every
            other row where there is one batch.
        share: About how many rows of a batch are looked at.
        seed: Of the choice of rows.
    """
    for number, (inputs, outputs) in enumerate(pair.run(stage, outputs=False)):
        for layer, halves in zip(stage, sums, strict=True):
            x, y = inputs[layer.data.name], outputs[layer.reference.name]
            rows, wanted = sampled(layer, x, y, share, (seed, number))
            if pair.batches > 1:
                halves[number % 2].add(rows, wanted)
            else:
                for half, total in enumerate(halves):
                    total.add(rows[:, half::2], wanted[:, half::2])


def _empty(layer: WeightLayer) -> MomentSum:
    exact = layer.with_bias(layer.rows(layer.weight), layer.reference_bias)
    return MomentSum(exact, has_bias=layer.bias is not None, layer=layer.name)


def _finished(one: MomentSum, other: MomentSum) -> tuple[Moments, Moments]:
    first = one.finish()
    return first, other.finish() if other.rows else first  # one row has no other half


def sampled(
    layer: PairedLayer, x: np.ndarray, y: np.ndarray, share: int, seed: tuple[int, ...]
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


def _changes(layer: WeightLayer, repaired: Repaired) -> Iterator[Change]:
    """Yield the variables that are bound to something else, and how that is built."""
    yield layer.held, lambda _, emit: repaired.stored.build(emit, layer.held.name)
    if layer.bias is not None and repaired.bias is not None:
        yield change_bias(layer.bias, repaired.stored, repaired.bias)
