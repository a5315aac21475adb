"""Measure how much a net's outputs feel each output of its layers.

Pruning asks how far a layer's outputs are off; of two that are off alike the one counts more that
reaches the net's outputs. For an output channel that is the mean, over places and samples, of the
squared derivative of the net's outputs by it, summed over these: along random signs of the net's
outputs the mean square of one derivative backwards is that sum. Where derivatives are not known all
the way, as before several heads, the last tensor that they are known of stands for the outputs.

Sources: J. Martens and R. Grosse, "Optimizing neural networks with Kronecker-factored approximate
curvature", ICML 2015, section 3, of whose factor of a layer's outputs this is the diagonal; C. Wang
et al., "EigenDamage: structured pruning in the Kronecker-factored eigenbasis", ICML 2019, for
pruning by it.
"""

from __future__ import annotations

from math import prod

import numpy as np
import tvm

from tvmopt import ir
from tvmopt.calibration import Samples, Tap
from tvmopt.passes.prune.block_net import BlockNet, trained_of
from tvmopt.passes.prune.net_blocks import NetBlock, longest_stretch

_BATCHES = 64  # of the samples: each tells of all places
_MOST_BYTES = 2 << 30
_LEAST = 0.01  # of a layer's mean: what nobody feels on these samples may be felt on others


def felt_outputs(mod: tvm.IRModule, samples: Samples, tap: Tap, seed: int) -> dict[str, np.ndarray]:
    """Return how much each output of layers is felt, (outputs,) of mean 1, by the layer's name.

    Args:
        mod: A net of floats with distinct names.
        samples: What to run.
        tap: Compiles modules for this machine.
        seed: Of the signs.

    Returns:
        Layers outside the longest stretch through which derivatives are known are left out; all
        are where what a batch leaves there takes more than 2 GB.
    """
    block = longest_stretch(mod)
    if isinstance(block, str) or not block.inputs or _held(block) > _MOST_BYTES:
        return {}
    few, trained = samples.spread(_BATCHES), trained_of(block)
    net, values = BlockNet(block, trained), [one.value for one in trained]
    run = tap(mod, [var.name for var in block.inputs])
    squares = {layer.var: np.zeros(layer.outputs) for layer in block.layers}
    rng = np.random.default_rng(seed)

    def signs(output: np.ndarray) -> np.ndarray:
        return rng.choice(np.array([-1.0, 1.0], np.float32), output.shape)

    for feed in few:
        for var, gradient in net.derivatives(run(feed), values, signs):
            if var in squares:
                flat = gradient.reshape(-1, gradient.shape[-1]).astype(np.float64)
                squares[var] += np.square(flat).mean(axis=0)
    found = {layer.name: squares[layer.var] for layer in block.layers}
    return {
        name: np.maximum(felt / mean, _LEAST)
        for name, felt in found.items()
        if (mean := float(felt.mean())) > 0.0 and np.isfinite(felt).all()
    }


def _held(block: NetBlock) -> int:
    """Return the bytes of what the layers of a block read, kept for the way back."""
    rows = {one: prod(ir.static_shape(one.var)) // one.outputs for one in block.layers}
    return sum(4 * count * one.weight.size // one.outputs for one, count in rows.items())
