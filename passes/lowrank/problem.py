"""What a layer's factors are to come near, and how near they come. NumPy, one layer.

Weights are rows (outputs, k), k in the order of an OHWI weight. All factors of a layer are judged
by the outputs that they give::

    (w - t) H (w - t)^T        t: the weights wanted, H: the second moments of the inputs

With samples, t is what the dense net's outputs ask for, fitted on the inputs that the layer gets in
the compressed net (the *asymmetric* target), and where the layer has a bias, which can make up for
any mean, H is the covariance. With H = L L^T this is the distance of w L from t L, so that
*whitened* methods are those for plain weights, applied to t L. Plain methods have H = I and t the
weights as they are, and are judged by the samples all the same.

Sources: X. Wang, Y. Zheng, Z. Wan and M. Zhang, "SVD-LLM: truncation-aware singular value
decomposition for large language model compression", ICLR 2025, section 3.1, for whitening; Z. Yuan
et al., "ASVD: activation-aware singular value decomposition for compressing large language models"
(2023), for scaling by activations before it. The asymmetric target and the covariance for layers
with a bias are derived here, from ``quantize.gptq`` and ``quantize.hessian``. Tried and left out:
to scale outputs to equal variance before. At 0.3 of the full ranks MiniLM-L6's embeddings kept a
cosine of .756 instead of .858, and ResNet-8's separations lost more, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tvmopt.passes.quantize.gptq import trusted_share, wanted_weights
from tvmopt.passes.quantize.hessian import Moments, pooled, regularized


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Problem:
    """A layer to factorize.

    Attributes:
        wanted: (o, k) float64; t above.
        metric: (k, k) float64, positive definite; H above, with a ridge.
        measured: (k, k) float64: the same without one, for telling errors.
        kernel: (height, width).
        spread: Sum of the outputs' variances, or of their squares where there is no bias; above 0.
        mean: (k,) of the inputs, for which the bias makes up; None where nothing does.
        bias: (o,), the bias that goes with ``wanted``; None where there is none.
    """

    wanted: np.ndarray
    metric: np.ndarray
    measured: np.ndarray
    kernel: tuple[int, int]
    spread: float
    mean: np.ndarray | None = None
    bias: np.ndarray | None = None

    @property
    def inputs(self) -> int:
        """Channels that the layer reads."""
        return self.wanted.shape[1] // (self.kernel[0] * self.kernel[1])

    @property
    def outputs(self) -> int:
        """Channels that it gives."""
        return len(self.wanted)

    def error(self, weight: np.ndarray) -> float:
        """Return the error that weights, (o, k), add, as a share of ``spread``."""
        change = weight - self.wanted
        return float(np.sum((change @ self.measured) * change)) / self.spread

    def bias_for(self, weight: np.ndarray) -> np.ndarray | None:
        """Return the bias that goes with weights, (o, k); None where there is none."""
        if self.bias is None or self.mean is None:
            return self.bias
        return self.bias + (self.wanted - weight) @ self.mean


def plain_problem(weight: np.ndarray, bias: np.ndarray | None, kernel: tuple[int, int]) -> Problem:
    """Return the problem of coming near the weights themselves.

    Args:
        weight: (o, k).
        bias: (o,), or None.
        kernel: (height, width).
    """
    one = np.eye(weight.shape[1])
    return Problem(
        wanted=weight,
        metric=one,
        measured=one,
        kernel=kernel,
        spread=float(np.sum(np.square(weight))) or 1.0,
        bias=bias,
    )


def sampled_problem(
    rows: np.ndarray,
    halves: tuple[Moments, Moments],
    kernel: tuple[int, int],
    *,
    has_bias: bool,
    ridge: float,
    whiten: bool,
) -> Problem:
    """Return the problem of coming near the dense net's outputs on the samples.

    Args:
        rows: (o, k) or, with a bias behind, (o, k + 1): the layer as it is.
        halves: Moments of two sets of rows of inputs; their one group is the layer.
        kernel: (height, width).
        has_bias: Whether the last of ``rows`` is the bias.
        ridge: Strength of the pull towards the weights as they are; see ``regularized``.
        whiten: Whether the samples decide what is fitted; else they only tell errors.
    """
    moments = pooled(*halves)
    inputs, missed = moments.inputs[0], moments.missed[0]
    weight, bias = (rows[:, :-1], rows[:, -1]) if has_bias else (rows, None)
    power = float(moments.wanted.sum())
    if not whiten:
        own = inputs[:-1, :-1] if has_bias else inputs
        plain = np.eye(weight.shape[1])
        return Problem(
            wanted=weight,
            metric=plain,
            measured=own,
            kernel=kernel,
            spread=power or 1.0,
            bias=bias,
        )
    hessian = regularized(moments.inputs, ridge, has_bias=has_bias)
    share = trusted_share(halves, ridge, has_bias=has_bias)
    best = wanted_weights(rows[None], moments.missed, hessian)[0]
    target = rows + share * (best - rows)
    if not has_bias:
        return Problem(
            wanted=target,
            metric=hessian[0],
            measured=inputs,
            kernel=kernel,
            spread=power or 1.0,
        )
    mean = inputs[-1, :-1]
    middle = missed[:, -1] + rows @ inputs[:, -1]
    return Problem(
        wanted=target[:, :-1],
        metric=hessian[0, :-1, :-1] - np.outer(mean, mean),
        measured=inputs[:-1, :-1] - np.outer(mean, mean),
        kernel=kernel,
        spread=max(power - float(np.sum(np.square(middle))), 0.0) or 1.0,
        mean=mean,
        bias=target[:, -1],
    )
