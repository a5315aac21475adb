"""Look at what layers read, and fit them to give the same without some of their inputs.

Layers are taken in order: what each reads is what the fitted layers before it make of the samples,
and what it is to give is what the dense net gives. Inputs that will be gone get weights of 0 here,
so that shapes stay while the net is gone through.

Source: as ``prune_channels``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tvm
from tvm import relax

from tvmopt.calibration import Samples, Tap
from tvmopt.passes.prune.channel_loss import fit_without
from tvmopt.passes.prune.float_layers import FloatLayer
from tvmopt.passes.quantize.gptq import wanted_weights
from tvmopt.passes.quantize.hessian import Moments, MomentSum, regularized
from tvmopt.passes.quantize.net_pair import Errand, NetPair, stages
from tvmopt.passes.quantize.repair_weights import sampled
from tvmopt.passes.quantize.weight_layers import Build

_MOST_BYTES = 512 << 20  # of moments that are summed at once

Tell = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class FitOptions:
    """How layers are looked at and fitted.

    Attributes:
        rows: About how many rows of each layer's inputs are looked at, at least 1.
        seed: Of the choice of rows, at least 0.
        ridge: Pull towards the weights as they were, as a share of the inputs' mean square, in
            (0, 1].
        repair: Whether weights are fitted; else those of inputs that go become 0, no more.
    """

    rows: int
    seed: int
    ridge: float
    repair: bool


def dense_moments(
    mod: tvm.IRModule,
    layers: Sequence[FloatLayer],
    samples: Samples,
    tap: Tap,
    options: FitOptions,
    tell: Tell,
) -> Iterator[tuple[str, Moments]]:
    """Yield each layer's name, and what it reads and gives in a net as it is.

    Raises:
        DataError: A value is not finite.
    """
    done = 0
    share = max(1, options.rows // len(samples))
    for some in _chunks(layers):
        names = dict.fromkeys(v.name for one in some for v in (one.data, one.var))
        run = tap(mod, list(names))
        sums = [_sum(layer) for layer in some]
        for number, feed in enumerate(samples):
            tell("look at channels", done + len(some) * number // len(samples), len(layers))
            values = run(feed)
            for layer, total in zip(some, sums, strict=True):
                x, y = values[layer.data.name], values[layer.var.name]
                total.add(*sampled(layer, x, y, share, (options.seed, number)))
        done += len(some)
        yield from ((layer.name, total.finish()) for layer, total in zip(some, sums, strict=True))


def _chunks(layers: Sequence[FloatLayer]) -> Iterator[list[FloatLayer]]:
    chunk: list[FloatLayer] = []
    held = 0
    for layer in layers:
        size = 8 * (layer.layer.weight.size // layer.layer.outputs) ** 2
        if chunk and held + size > _MOST_BYTES:
            yield chunk
            chunk, held = [], 0
        chunk.append(layer)
        held += size
    if chunk:
        yield chunk


def _sum(layer: FloatLayer) -> MomentSum:
    return MomentSum(
        layer.rows()[None], has_bias=layer.reference_bias is not None, layer=layer.name
    )


def fit_readers(
    mod: tvm.IRModule,
    gone: Sequence[tuple[FloatLayer, np.ndarray]],
    errand: Errand,
    options: FitOptions,
) -> dict[relax.Var, Build]:
    """Return what must change for layers to do without some inputs; the errors are noted.

    Args:
        mod: The net as it is.
        gone: Layers, in order, and the places of the inputs that each is to do without.
        errand: What is needed.
        options: How.

    Raises:
        OptionError: A Hessian is singular.
        DataError: A value is not finite, or the disk for tensors is full.
    """
    tell = errand.progress or (lambda *_: None)
    places = {layer.name: inputs for layer, inputs in gone}
    layers = [layer for layer, _ in gone]
    changes: dict[relax.Var, Build] = {}
    share = max(1, options.rows // len(errand.samples))
    done = 0
    with tempfile.TemporaryDirectory(prefix="tvmopt-channels-") as folder:
        pair = NetPair(mod, mod, layers, errand, Path(folder))
        for stage in stages(layers):
            tell(errand.what, done, len(layers))
            sums = [_sum(layer) for layer in stage]
            for number, (inputs, outputs) in enumerate(pair.run(stage, outputs=False)):
                for layer, total in zip(stage, sums, strict=True):
                    x, y = inputs[layer.data.name], outputs[layer.reference.name]
                    total.add(*sampled(layer, x, y, share, (options.seed, number)))
            for layer, total in zip(stage, sums, strict=True):
                fitted = _fit(layer, total.finish(), places[layer.name], options, errand)
                for var, build in layer.changes(fitted):
                    changes[var] = build
                    pair.compressed.change(var, build)
            done += len(stage)
    tell(errand.what, done, len(layers))
    return changes


def _fit(
    layer: FloatLayer, moments: Moments, gone: np.ndarray, options: FitOptions, errand: Errand
) -> np.ndarray:
    """Return a layer's weights without some inputs, in the form of ``FloatLayer.rows``."""
    weight = layer.rows()
    if options.repair:
        has_bias = layer.reference_bias is not None
        hessian = regularized(moments.inputs, options.ridge, has_bias=has_bias)
        wanted = wanted_weights(weight[None], moments.missed, hessian)[0]
        rows = fit_without(wanted, hessian[0], gone)
    else:
        rows = weight.copy()
        rows[:, gone] = 0.0
    share = float(moments.error((rows - weight)[None]).sum()) / (float(moments.wanted.sum()) or 1.0)
    inputs = layer.layer.weight.size // layer.layer.outputs
    errand.note(
        layer.name,
        applied=True,
        reason=f"{inputs - len(gone)} of {inputs} inputs are left, output error {share:.3g} of the "
        "output's square",
    )
    return rows
