"""Let the layers of a quantized net read 16 bits instead of 8, with weights of 8 bits.

Before and after: the same layers of the same net of floats in integers, quantized and repaired
anew. Cost: these layers take about half as long again, see ``activation_bits`` of quantize-static;
those whose sums may not fit 32 bits compute in floats.

Source: none; see ``quantize_static`` and ``repair_weights``.
"""

from __future__ import annotations

from dataclasses import replace

import tvm

from tvmopt import forms, ir
from tvmopt.calibration import Samples, Tap
from tvmopt.passes.quantize.layers import find_layers
from tvmopt.passes.quantize.observe import Progress
from tvmopt.passes.quantize.quantize_static import QuantizeStatic, QuantizeStaticOptions
from tvmopt.passes.quantize.repair_weights import RepairWeights, RepairWeightsOptions
from tvmopt.passes.quantize.weight_layers import Reader
from tvmopt.report import Report

WIDE = QuantizeStaticOptions(activation_bits=16, weight_bits=8)
_NARROW = ("int8", "uint8", "float16", "bfloat16")


def undone_by_widening(mod: tvm.IRModule, reference: tvm.IRModule) -> tuple[str, ...]:
    """Return what holds constants in few bits that ``widen``, which begins anew, would lose.

    That is all but layers of fixed scales: layers whose weights alone are stored so or whose data
    is quantized at run time, and tables of which rows are looked up.

    Args:
        mod: A quantized module with distinct names.
        reference: The module before, with distinct names.

    Returns:
        The names of what reads these constants, in order; what the reference reads so stays.
    """
    graph = Reader(mod)
    static, before = _products(graph), set(_readers(Reader(reference)))
    return tuple(name for name in _readers(graph) if name not in static and name not in before)


def _products(graph: Reader) -> set[str]:
    """Return the names of the layers of fixed scales."""
    return {
        var.name
        for var, value in graph.values.items()
        if forms.match_product(value, graph.define) is not None
    }


def _readers(graph: Reader) -> list[str]:
    """Return the names of what reads a constant of few bits: as a weight, or as a table."""
    found = []
    for var, value in graph.values.items():
        if ir.is_call_to(value, "relax.nn.conv2d", "relax.matmul"):
            narrow = forms.match_stored(value.args[1], graph.define) is not None
        else:
            table = ir.constant(value.args[0]) if ir.is_call_to(value, "relax.take") else None
            narrow = table is not None and str(table.dtype) in _NARROW
        if narrow:
            found.append(var.name)
    return found


def widen(
    mod: tvm.IRModule, reference: tvm.IRModule, samples: Samples, tap: Tap, progress: Progress
) -> tvm.IRModule:
    """Return the net with the layers that ``mod`` computes in integers of fixed scales so wide.

    All else is as in the reference: see ``undone_by_widening``.

    Args:
        mod: A quantized module with distinct names.
        reference: The module before, with distinct names.
        samples: What ranges and repair are learned from.
        tap: Compiles modules for this machine.
        progress: Is told how far it is.

    Returns:
        ``mod`` itself where it has no such layer.
    """
    integers = _products(Reader(mod))
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
