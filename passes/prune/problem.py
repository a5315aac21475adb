"""A layer that is to be pruned, as least squares sees it.

Weights are rows (outputs, k), k in the order of an OHWI weight, and, where the layer has a bias, it
is the last of k and never pruned. The objective is that of the layer's outputs::

    (w - t) H (w - t)^T        t: the weights wanted, H: the regularized Hessian of the inputs

Source: E. Frantar, S. P. Singh and D. Alistarh, "Optimal Brain Compression", NeurIPS 2022, section
3; the wanted weights and the bias are those of ``passes.quantize.gptq``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Problem:
    """A layer to prune.

    Attributes:
        weight: (o, k) float64, the weights at hand, the bias behind them.
        wanted: (o, k) float64; t above.
        hessian: (k, k) float64, positive definite.
        run: Inputs of one run of taps; k less the bias is a multiple of it.
        has_bias: Whether the last of k is the bias.
    """

    weight: np.ndarray
    wanted: np.ndarray
    hessian: np.ndarray
    run: int
    has_bias: bool

    @property
    def inputs(self) -> int:
        """Weights of an output, its bias not counted."""
        return self.weight.shape[1] - self.has_bias

    def groups(self, size: int) -> np.ndarray:
        """Return the number of each input's group of ``size`` neighbours, (inputs,)."""
        per_run = -(-self.run // size)
        place = np.arange(self.inputs)
        return place // self.run * per_run + place % self.run // size

    def weighted(self, outputs: np.ndarray | None) -> Problem:
        """Return the layer with the squared error of each output counted so many times, (o,)."""
        if outputs is None:
            return self
        root = np.sqrt(outputs)[:, None]
        return replace(self, weight=self.weight * root, wanted=self.wanted * root)

    def objective(self, weight: np.ndarray) -> float:
        """Return the objective of other weights, (o, k)."""
        change = weight - self.wanted
        return float(np.sum((change @ self.hessian) * change))
