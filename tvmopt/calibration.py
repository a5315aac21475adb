"""The samples by which passes learn what values flow through a model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tvm

from tvmopt import samples
from tvmopt.errors import DataError, OptionError
from tvmopt.samples import Port

Feed = Mapping[str, np.ndarray]
"""One batch: the model's input name to an array of the input's static shape."""

Tap = Callable[[tvm.IRModule, Sequence[str]], Callable[[Feed], dict[str, np.ndarray]]]
"""``tap(mod, names)`` compiles ``mod`` for this machine so that the named bindings (or parameters)
of "main" are its outputs, and returns the function that runs one batch and gives them by name."""

LEAST_SAMPLES = 16


class Samples:
    """Checked samples, iterated as often as one likes, in the model's batch size.

    Attributes:
        where: Where they come from, for messages.
        inputs: Names, dtypes and shapes of the model's inputs.
    """

    def __init__(
        self,
        inputs: Sequence[Port],
        arrays: Mapping[str, np.ndarray],
        where: str = "calibration data",
        *,
        least: int = LEAST_SAMPLES,
    ) -> None:
        """Check that ``arrays`` are samples of ``inputs``.

        Args:
            inputs: The model's inputs, static shapes, the batch first.
            arrays: Samples along the first axis by input name; other names are left out.
            where: Where they come from, for messages.
            least: The fewest samples that will do, at least 1.

        Raises:
            OptionError: ``least`` is below 1.
            DataError: An input is missing, a dtype or shape is not the model's, the samples leave
                a remainder of the batch, are fewer than ``least``, or hold NaN or infinities.
        """
        if least < 1:
            raise OptionError(f"the least number of samples must be at least 1, got {least!r}")
        self.where, self.inputs = where, tuple(inputs)
        self._arrays = samples.select_inputs(self.inputs, arrays, where)
        count = samples.count_batches(self.inputs, self._arrays, where)
        self._batches: Sequence[int] = range(count)
        self._check_count(least)
        for name, array in self._arrays.items():
            _check_finite(name, array, where)

    def _check_count(self, least: int) -> None:
        if self.count < least:
            raise DataError(
                f"{self.where}: must hold at least {least} samples, got {self.count}; add samples "
                "of what the model will see, or lower the recipe's 'min_samples'"
            )

    def __len__(self) -> int:
        """The number of batches."""
        return len(self._batches)

    def __iter__(self) -> Iterator[Feed]:
        """Yield each batch; the arrays are views and must not be written to."""
        for i in self._batches:
            yield samples.batch(self.inputs, self._arrays, i)

    @property
    def batch(self) -> int:
        """How many samples the model takes at once."""
        return self.inputs[0].shape[0] if self.inputs and self.inputs[0].shape else 1

    @property
    def count(self) -> int:
        """The number of samples."""
        return len(self) * self.batch

    def spread(self, batches: int) -> Samples:
        """Return at most ``batches`` of the batches, evenly spaced; the arrays are shared.

        Raises:
            OptionError: ``batches`` is below 1.
        """
        if batches < 1:
            raise OptionError(f"batches must be at least 1, got {batches!r}")
        few = object.__new__(Samples)
        few.where, few.inputs, few._arrays = self.where, self.inputs, self._arrays
        count = min(batches, len(self))
        few._batches = [self._batches[i * len(self) // count] for i in range(count)]
        return few

    def sha256(self) -> str:
        """Return the digest of names, dtypes, shapes and values, in hexadecimal."""
        digest = hashlib.sha256()
        for feed in self:
            for name, array in feed.items():
                digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def load_samples(path: Path, inputs: Sequence[Port], *, least: int = LEAST_SAMPLES) -> Samples:
    """Return the samples of an ``.npz`` file whose arrays are named as the inputs.

    Raises:
        DataError: The file cannot be read or does not fit the model; see ``Samples``.
    """
    return Samples(inputs, samples.load_npz(path), str(path), least=least)


def _check_finite(name: str, array: np.ndarray, where: str) -> None:
    if array.dtype.kind not in "fc":
        return
    for i, sample in enumerate(np.atleast_1d(array)):  # one at a time: the mask stays small
        finite = np.isfinite(sample)
        if not finite.all():
            odd = np.asarray(sample)[~finite].flat[0]
            raise DataError(f"{where}: {name!r} must be finite, got {odd} in sample {i}")
