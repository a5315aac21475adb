"""Say in which order channels should go, and what the layers that read them lose. NumPy.

A reader of the channels is a layer as least squares sees it (``Problem``). What it loses is how far
its objective rises, as a share of the square of its outputs; a channel's loss is the sum over all
readers. By ``"obs"`` the weights that are left make up for each channel at once, exactly: with the
inverse Hessian G of what is left, and S the weights of a channel::

    rise = w_S (G_SS)^-1 w_S^T      w <- w - w_S (G_SS)^-1 G_S      G <- G - G_:S (G_SS)^-1 G_S:

By ``"wanda"`` nothing makes up for anything, and inputs count as if they were independent; by
``"magnitude"`` the squares of the weights that produce a channel count instead.

Sources: B. Hassibi and D. Stork, "Second order derivatives for network pruning: Optimal Brain
Surgeon", NIPS 1992, here for all weights that read a channel at once, and all readers; J.-H. Luo,
J. Wu and W. Lin, "ThiNet", ICCV 2017, for judging a channel by what reads it; M. Sun et al., "A
simple and effective pruning approach for large language models" (Wanda), ICLR 2024; H. Li et al.,
"Pruning filters for efficient convnets", ICLR 2017, for magnitude.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

Importance = Literal["obs", "wanda", "magnitude"]
IMPORTANCES: tuple[Importance, ...] = get_args(Importance)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Reader:
    """A layer that reads channels.

    Attributes:
        weight: (o, k) float64, its bias, if any, behind.
        hessian: (k, k) float64, positive definite.
        energy: What its outputs' mean squares sum up to, above 0.
        places: (rows, units, width): which of k read each unit.
    """

    weight: np.ndarray
    hessian: np.ndarray
    energy: float
    places: np.ndarray


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Ladder:
    """A way down for a group of channels.

    Attributes:
        counts: How many units each row keeps at each step down, descending.
        losses: What the readers have lost by then, as a share of the square of their outputs.
        order: (rows, units gone at the end): which units go, the first first.
    """

    counts: tuple[int, ...]
    losses: tuple[float, ...]
    order: np.ndarray

    def kept(self, count: int) -> np.ndarray:
        """Return the units that are left of each row, (rows, count), ascending."""
        rows, gone = self.order.shape
        units = self.counts[-1] + gone
        left = []
        for row in range(rows):
            mask = np.ones(units, bool)
            mask[self.order[row, : units - count]] = False
            left.append(np.flatnonzero(mask))
        return np.array(left)


def descend(
    readers: Sequence[Reader],
    made: np.ndarray,
    counts: tuple[int, ...],
    importance: Importance,
) -> Ladder:
    """Return in which order units go.

    Args:
        readers: What reads them; all have the same rows and units.
        made: (rows, units): share of the square of the weights that produce each.
        counts: How many units each row is to keep at each step, descending.
        importance: How a unit is judged.
    """
    rows, units = made.shape
    alive = np.ones((rows, units), bool)
    left = [_Left(reader) for reader in readers]
    order: list[np.ndarray] = []
    losses, lost = [], 0.0
    for count in counts:
        # One at a time: of two channels that are alike each can go, but not both.
        while alive[0].sum() > count:
            rise = made if importance == "magnitude" else sum(one.rises(importance) for one in left)
            worst = np.argmin(np.where(alive, rise, np.inf), axis=1)[:, None]
            if importance == "obs":
                lost += sum(one.remove(worst) for one in left)
            else:
                lost += float(np.take_along_axis(rise, worst, axis=1).sum())
            np.put_along_axis(alive, worst, False, axis=1)
            order.append(worst)
        losses.append(lost)
    return Ladder(counts=counts, losses=tuple(losses), order=np.concatenate(order, axis=1))


class _Left:
    """What is left of a reader."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._weight = reader.weight.copy()
        self._inverse = np.linalg.inv(reader.hessian)

    def rises(self, importance: Importance) -> np.ndarray:
        """Return what it would lose without each unit, (rows, units); those gone count nothing."""
        reader = self._reader
        if importance == "wanda":
            energy = np.sum(np.square(reader.weight), axis=0) * np.diag(reader.hessian)
            return energy[reader.places].sum(axis=2) / reader.energy
        places = reader.places
        if places.shape[2] == 1:  # without its general case thousands of units take minutes
            places = places[..., 0]
            scale = np.diag(self._inverse)[places]
            energy = np.einsum("ok,ok->k", self._weight, self._weight)[places]
            return energy / np.where(scale > 0.0, scale, 1.0) / reader.energy
        blocks = self._inverse[places[..., :, None], places[..., None, :]]
        # The inverse is 0 where units are gone; their blocks may be anything that can be solved.
        gone = blocks[..., 0, 0] <= 0.0
        blocks[gone] = np.eye(places.shape[2])
        weight = self._weight[:, places].transpose(1, 2, 3, 0)  # (rows, units, width, o)
        return np.sum(weight * np.linalg.solve(blocks, weight), axis=(2, 3)) / reader.energy

    def remove(self, units: np.ndarray) -> float:
        """Take units, (rows, some), out, and return what that loses."""
        taken = np.take_along_axis(self._reader.places, units[:, :, None], axis=1).reshape(-1)
        inverse = self._inverse
        block = np.linalg.inv(inverse[np.ix_(taken, taken)])
        weight = self._weight[:, taken]
        pull = block @ inverse[taken]
        lost = float(np.sum((weight @ block) * weight)) / self._reader.energy
        self._weight -= weight @ pull
        self._inverse -= inverse[:, taken] @ pull
        self._weight[:, taken] = 0.0
        self._inverse[taken] = 0.0
        self._inverse[:, taken] = 0.0
        return lost


def fit_without(wanted: np.ndarray, hessian: np.ndarray, gone: np.ndarray) -> np.ndarray:
    """Return the weights of least objective that are 0 at some places, (o, k).

    Args:
        wanted: (o, k), the weights of least objective of all.
        hessian: (k, k), positive definite.
        gone: (some,), the places.
    """
    left = np.setdiff1d(np.arange(wanted.shape[1]), gone)
    result = np.zeros_like(wanted)
    result[:, left] = np.linalg.solve(hessian[np.ix_(left, left)], hessian[left] @ wanted.T).T
    return result
