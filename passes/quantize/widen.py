"""Let the layers of a quantized net read 16 bits instead of 8, with weights of 8 bits.

Before and after: the same layers of the same net of floats in integers, quantized and repaired
anew. Cost: these layers take about half as long again, see ``activation_bits`` of quantize-static;
those whose sums may not fit 32 bits compute in floats.

Source: none; see ``quantize_static`` and ``repair_weights``.
"""

from __future__ import annotations

from dataclasses import replace

import tvm

from tvmopt import forms
from tvmopt.calibration import Samples, Tap
from tvmopt.passes.quantize.layers import find_layers
from tvmopt.passes.quantize.observe import Progress
from tvmopt.passes.quantize.quantize_static import QuantizeStatic, QuantizeStaticOptions
from tvmopt.passes.quantize.repair_weights import RepairWeights, RepairWeightsOptions
from tvmopt.passes.quantize.weight_layers import Reader
from tvmopt.report import Report

WIDE = QuantizeStaticOptions(activation_bits=16, weight_bits=8)


def widen(
    mod: tvm.IRModule, reference: tvm.IRModule, samples: Samples, tap: Tap, progress: Progress
) -> tvm.IRModule:
    """Return the net with the layers that ``mod`` computes in integers of fixed scales so wide.

    Args:
        mod: A quantized module with distinct names.
        reference: The module before, with distinct names.
        samples: What ranges and repair are learned from.
        tap: Compiles modules for this machine.
        progress: Is told how far it is.

    Returns:
        ``mod`` itself where it has no such layer.
    """
    graph = Reader(mod)
    integers = {
        var.name
        for var, value in graph.values.items()
        if forms.match_product(value, graph.define) is not None
    }
    names = [layer.name for layer in find_layers(reference["main"]).values()]
    if not any(name in integers for name in names):
        return mod
    left = {name: "it is in floats" for name in names if name not in integers}
    options = replace(WIDE, skip=left)
    wide = QuantizeStatic(options, samples, tap, Report(), progress=progress)(reference)
    repair = RepairWeights(
        RepairWeightsOptions(), reference, samples, tap, Report(), progress=progress
    )
    return repair(wide)
