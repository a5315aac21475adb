"""Stream what least squares needs to know of a layer: second moments of inputs and wanted outputs.

A convolution or matmul is, for each of its groups, a matrix product of rows: every output position
reads one row of inputs (its patch). With a constant 1 behind each row the bias is one more weight.
For rows x and wanted outputs y, of which ``W x`` with the weights at hand W misses r = y - W x::

    inputs = mean x x^T    (k, k)     the Hessian of the squared error, but for a factor of 2
    missed = mean r x^T    (o, k)
    energy = mean r^2      (o,)

The squared error of any other weights W + D is then ``D inputs D^T - 2 D missed^T + energy``. The
difference r is summed, not y: beside y it would be lost in rounding. Memory is that of the three
sums, whatever the number of samples.

Sources: E. Frantar, S. P. Singh and D. Alistarh, "Optimal Brain Compression: a framework for
accurate post-training quantization and pruning", NeurIPS 2022, section 3, for the layer-wise
problem and its Hessian; the form for r is derived here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tvmopt.errors import DataError, OptionError

_CHUNK_BYTES = 64 << 20  # rows in float64 that are looked at at once
_WAITING = 256  # rows: each sum goes through all k x k numbers, for few rows as for many


@dataclass(frozen=True, kw_only=True, slots=True)
class Patches:
    """How an operator reads its data: one row of inputs for each output position and group.

    A matmul is the 1x1 case whose positions are the rows of its data.

    Attributes:
        kernel: (height, width).
        strides: (vertical, horizontal).
        padding: (top, left, bottom, right), with zeros.
        dilation: (vertical, horizontal).
        groups: The number of groups.
    """

    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def rows(self, x: np.ndarray, output: tuple[int, int], positions: np.ndarray) -> np.ndarray:
        """Return the rows of some output positions.

        Args:
            x: (n, h, w, c), floating point.
            output: (height, width) of the output.
            positions: (r,), flat places in (n, height, width) of the output.

        Returns:
            (groups, r, kernel height * kernel width * c / groups), the order of an OHWI weight.
        """
        n, h, w, c = x.shape
        image, row, column = np.unravel_index(positions, (n, *output))
        down = self._taps(row, 0)  # (r, kh) in the data as it is, borders outside of it
        right = self._taps(column, 1)
        inside = ((down >= 0) & (down < h))[:, :, None] & ((right >= 0) & (right < w))[:, None, :]
        taken = x[
            image[:, None, None],
            np.clip(down, 0, h - 1)[:, :, None],
            np.clip(right, 0, w - 1)[:, None, :],
        ]
        taken *= inside[..., None]
        rows = taken.reshape(len(positions), -1, self.groups, c // self.groups)
        return np.ascontiguousarray(rows.transpose(2, 0, 1, 3)).reshape(
            self.groups, len(positions), -1
        )

    def _taps(self, place: np.ndarray, axis: int) -> np.ndarray:
        first = place * self.strides[axis] - self.padding[axis]
        return first[:, None] + self.dilation[axis] * np.arange(self.kernel[axis])


def choose_positions(total: int, rows: int, seed: tuple[int, ...]) -> np.ndarray:
    """Return at most ``rows`` of ``total`` output positions, ascending, the same for one seed."""
    if rows >= total:
        return np.arange(total)
    return np.sort(np.random.default_rng(seed).choice(total, rows, replace=False))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Moments:
    """Means over rows; float64. The last input is the constant 1 where the layer has a bias.

    Attributes:
        inputs: (groups, k, k), symmetric and positive semidefinite.
        missed: (groups, outputs of a group, k).
        energy: (groups, outputs of a group).
        wanted: (groups, outputs of a group): mean square of the wanted outputs.
        rows: How many rows there were.
    """

    inputs: np.ndarray
    missed: np.ndarray
    energy: np.ndarray
    wanted: np.ndarray
    rows: int

    def error(self, change: np.ndarray) -> np.ndarray:
        """Return the mean squared error of the weights changed by ``change``, a number an output.

        Args:
            change: (groups, outputs of a group, k).

        Returns:
            (groups, outputs of a group), at least 0.
        """
        quadratic = np.sum(np.matmul(change, self.inputs) * change, axis=-1)
        linear = np.sum(change * self.missed, axis=-1)
        return np.maximum(quadratic - 2.0 * linear + self.energy, 0.0)


def pooled(one: Moments, other: Moments) -> Moments:
    """Return the means over the rows of both."""
    rows = one.rows + other.rows
    share = one.rows / rows

    def mean(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return share * a + (1.0 - share) * b

    return Moments(
        inputs=mean(one.inputs, other.inputs),
        missed=mean(one.missed, other.missed),
        energy=mean(one.energy, other.energy),
        wanted=mean(one.wanted, other.wanted),
        rows=rows,
    )


class MomentSum:
    """Sums moments chunk by chunk.

    Attributes:
        weight: (groups, outputs of a group, k) float64: the weights at hand, the bias behind them.
        has_bias: Whether the last of k is the bias.
        rows: How many rows were taken so far.
    """

    def __init__(self, weight: np.ndarray, *, has_bias: bool, layer: str) -> None:
        """Start at zero for the layer named ``layer``, whose weights are ``weight``."""
        groups, outputs, k = weight.shape
        self.weight = weight
        self.has_bias = has_bias
        self._layer = layer
        self._inputs = np.zeros((groups, k, k))
        self._missed = np.zeros((groups, outputs, k))
        self._energy = np.zeros((groups, outputs))
        self._wanted = np.zeros((groups, outputs))
        self.rows = 0
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, rows: np.ndarray, wanted: np.ndarray) -> None:
        """Take rows of inputs, (groups, r, k less the bias), and outputs, (groups, r, outputs).

        They may wait for others, and must not be written to.

        Raises:
            DataError: A value is not finite.
        """
        self._waiting.append((rows, wanted))
        self.rows += rows.shape[1]
        if sum(some.shape[1] for some, _ in self._waiting) >= _WAITING:
            self._add_waiting()

    def _add_waiting(self) -> None:
        rows, wanted = (np.concatenate(some, axis=1) for some in zip(*self._waiting, strict=True))
        self._waiting.clear()
        groups, _, k = self.weight.shape
        step = max(1, _CHUNK_BYTES // (8 * groups * k))
        for start in range(0, rows.shape[1], step):
            part = slice(start, start + step)
            self._add(rows[:, part].astype(np.float64), wanted[:, part].astype(np.float64))

    def _add(self, x: np.ndarray, y: np.ndarray) -> None:
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise DataError(
                f"layer {self._layer!r}: values must be finite for every calibration sample, "
                "got NaN or infinities; look at the samples"
            )
        if self.has_bias:
            x = np.concatenate([x, np.ones((*x.shape[:2], 1))], axis=-1)
        across = x.swapaxes(1, 2)
        missed = y - np.matmul(x, self.weight.swapaxes(1, 2))
        self._inputs += np.matmul(across, x)
        self._missed += np.matmul(missed.swapaxes(1, 2), x)
        self._energy += np.sum(np.square(missed), axis=1)
        self._wanted += np.sum(np.square(y), axis=1)

    def finish(self) -> Moments:
        """Return the means.

        Raises:
            DataError: There were no rows, or a value is not finite.
        """
        if self.rows == 0:
            raise DataError(f"layer {self._layer!r}: must see at least one sample, got none")
        if self._waiting:
            self._add_waiting()
        return Moments(
            inputs=self._inputs / self.rows,
            missed=self._missed / self.rows,
            energy=self._energy / self.rows,
            wanted=self._wanted / self.rows,
            rows=self.rows,
        )


def regularized(inputs: np.ndarray, ridge: float, *, has_bias: bool) -> np.ndarray:
    """Return the Hessian with a ridge on every weight but the bias.

    Args:
        inputs: (groups, k, k), as in ``Moments``.
        ridge: Strength, as a share of a group's mean diagonal, above 0.
        has_bias: Whether the last of k is the bias.

    Returns:
        (groups, k, k), positive definite. A group whose inputs are all zero gets a ridge of 1: any
        weights do.

    Raises:
        OptionError: ``ridge`` is not above 0, or so small that the Hessian is singular.
    """
    if not 0.0 < ridge <= 1.0:
        raise OptionError(f"ridge must be in (0, 1], got {ridge!r}")
    size = inputs.shape[-1] - has_bias
    diagonal = np.einsum("gkk->gk", inputs)[:, :size]
    strength = ridge * diagonal.mean(axis=1)
    strength = np.where(strength > 0.0, strength, 1.0)
    result = inputs.copy()
    np.einsum("gkk->gk", result)[:, :size] += strength[:, None]
    try:
        np.linalg.cholesky(result)
    except np.linalg.LinAlgError as err:
        raise OptionError(
            f"ridge must be large enough for a positive definite Hessian, got {ridge!r}; "
            "raise it, or give more samples"
        ) from err
    return result
