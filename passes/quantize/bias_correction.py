"""Move each bias by what quantization shifts the mean of an output.

Before and after, for every layer of ``weight_layers`` that has a bias::

    z = add(conv2d | matmul(x, weight), bias)
    z = add(conv2d | matmul(x, weight), bias + mean(z of the floats - z))      one mean an output

over all positions of all calibration samples, layer by layer, each with what the corrected layers
before it give. Rounding moves the outputs of a channel alike where its inputs are not centred; that
part of the error, the mean, becomes 0 (but for the rounding of an int32 bias), and the rest stays.
Cost: none at run time.

Source: M. Nagel, M. van Baalen, T. Blankevoort and M. Welling, "Data-free quantization through
weight equalization and bias correction", ICCV 2019, section 4.2 and appendix D ("empirical bias
correction").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import tvm

from tvmopt.calibration import Samples, Tap
from tvmopt.errors import DataError
from tvmopt.passes.quantize.net_pair import Errand, Leave, NetPair, Progress, revise_layers
from tvmopt.passes.quantize.weight_layers import Bias, Change, WeightLayer, change_bias
from tvmopt.report import Report


@dataclass(frozen=True, kw_only=True, slots=True)
class CorrectBiasOptions:
    """Nothing to choose: recipes name the pass by it."""


class Shift:
    """Sums by how much the outputs of a layer miss those wanted."""

    def __init__(self, layer: str, outputs: int) -> None:
        """Start at zero for the layer of that name and number of outputs."""
        self._layer = layer
        self._sum, self._squares = np.zeros(outputs), np.zeros(outputs)
        self._wanted = 0.0
        self._count = 0

    def add(self, got: np.ndarray, wanted: np.ndarray) -> None:
        """Take some outputs, (rows, outputs) each.

        Raises:
            DataError: A value is not finite.
        """
        missed = wanted.astype(np.float64) - got
        if not np.isfinite(missed).all():
            raise DataError(
                f"layer {self._layer!r}: values must be finite for every calibration sample, "
                "got NaN or infinities; look at the samples"
            )
        self._sum += missed.sum(axis=0)
        self._squares += np.square(missed).sum(axis=0)
        self._wanted += float(np.square(wanted, dtype=np.float64).sum())
        self._count += len(missed)

    @property
    def mean(self) -> np.ndarray:
        """How much is missed on average, (outputs,) float64; zeros where nothing was seen."""
        return self._sum / max(self._count, 1)

    def errors(self) -> tuple[float, float]:
        """Return the squared error before and after ``mean`` is added.

        Both are shares of the square of the outputs wanted.
        """
        total = self._wanted or 1.0
        gain = self._count * float(np.square(self.mean).sum())
        before = float(self._squares.sum())
        return before / total, max(before - gain, 0.0) / total


class CorrectBias:
    """Correct the bias of every layer of integers, and note in the report what each brought.

    It is no TVM pass: what fails in one of those loses its type.
    """

    def __init__(
        self,
        options: CorrectBiasOptions,
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
            leave: Says which layers are to be left alone; None corrects all.
            progress: Is told of each stage; None tells nobody.
        """
        self.options = options
        self.errand = Errand(
            pass_name="CorrectBias",
            what="correct biases",
            reference=reference,
            samples=samples,
            tap=tap,
            report=report,
            leave=leave,
            progress=progress,
        )

    def __call__(self, mod: tvm.IRModule) -> tvm.IRModule:
        """Return the corrected module; ``mod`` is left as it was.

        Raises:
            DataError: A layer's values are not finite, or the disk for them is full.
        """
        return revise_layers(mod, self.errand, self._revise)

    def _revise(self, pair: NetPair, stage: Sequence[WeightLayer]) -> Iterator[Change]:
        shifts = [Shift(layer.name, _outputs(layer)) for layer in stage]
        for here, floats in pair.run(stage, outputs=True):
            for layer, shift in zip(stage, shifts, strict=True):
                got, wanted = here[layer.name], floats[layer.name]
                if layer.bias is not None and layer.reference_bias is not None:
                    got, wanted = got + layer.bias.value, wanted + layer.reference_bias
                shift.add(*(y.reshape(-1, y.shape[-1]) for y in (got, wanted)))
        for layer, shift in zip(stage, shifts, strict=True):
            if layer.bias is None:
                self.errand.note(layer.name, applied=False, reason="it has no bias to move")
            else:
                yield self._correct(layer, layer.bias, shift)

    def _correct(self, layer: WeightLayer, bias: Bias, shift: Shift) -> Change:
        before, after = shift.errors()
        self.errand.note(
            layer.name,
            applied=True,
            reason=f"output error {before:.3g} -> {after:.3g} of the output's square",
        )
        return change_bias(bias, layer.stored, bias.value + shift.mean)


def _outputs(layer: WeightLayer) -> int:
    return int(layer.weight.shape[layer.output_axis])
