"""Integer convolutions of 7-bit weights that add two steps up in 16 bits, where weights allow it.

The kernel is that of qconv.py. A step and a half of multiplications does what otherwise takes two:
each PMADDUBSW needs its PMADDWD to widen sums, and here two share one. The weights in excess
(bins.py) cost some steps more, 2 to 8 in 100 of trained nets.

Source: none; derived here.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tvmopt.kernels.bins import take_excess
from tvmopt.kernels.dot import chained_dot
from tvmopt.kernels.qconv import QConvConfig, config, cycles, pack, pack_bias
from tvmopt.kernels.qconv_site import QConvSite, image_of, steps_of
from tvmopt.targets.description import CpuTarget


def chained(
    site: QConvSite, weight: np.ndarray, target: CpuTarget
) -> tuple[QConvConfig, tuple[np.ndarray, np.ndarray, np.ndarray]] | None:
    """Return the configuration that adds two steps up in 16 bits, and the weights for it.

    Args:
        site: The convolution.
        weight: Integers (o, kh, kw, c / groups).
        target: The machine.

    Returns:
        None where the instruction or the steps are not fit for it. The weights are those of
        ``pack`` less what is in excess, this, (panels, extra, tile.width, 4), and where in the
        image the activations of each of its steps begin, (panels, extra), int32.
    """
    dot = chained_dot(target, site.largest)
    if dot is None or steps_of(site, dot) % dot.depth:
        return None
    how = config(site, target, dot)
    packed = pack(weight, site, how)
    count, lines, steps, width, group = packed.shape
    left, excess = take_excess(packed.reshape(count, lines * steps, width, group), dot.depth)
    starts = image_of(site, dot).starts()[:, None] + np.arange(steps, dtype=np.int32) * group
    places = starts.reshape(-1).astype(np.int32)[excess.steps].reshape(count, -1)
    extra = excess.weights.reshape(count, -1, width, group)
    return replace(how, extra=extra.shape[1]), (left.reshape(packed.shape), extra, places)


def best(
    site: QConvSite, weight: np.ndarray, bias: np.ndarray, target: CpuTarget
) -> tuple[QConvConfig, tuple[np.ndarray, ...]]:
    """Return the configuration of the fewest predicted cycles, and the kernel's constants.

    Args:
        site: The convolution.
        weight: Integers (o, kh, kw, c / groups).
        bias: (o,), int64.
        target: The machine.
    """
    plain = config(site, target)
    found = chained(site, weight, target)
    if found is not None and cycles(site, found[0], target) < cycles(site, plain, target):
        how, (left, extra, places) = found
        excess = (extra, places) if how.extra else ()
        return how, (left, *excess, pack_bias(bias, weight, site, how))
    return plain, (pack(weight, site, plain), pack_bias(bias, weight, site, plain))
