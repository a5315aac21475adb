"""What a part of a net reads and should give, batch by batch, kept on the disk while it is tuned.

Memory does not grow with the samples: batches are read through a map of the files.

Source: none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tvm import relax

from tvmopt.calibration import Samples
from tvmopt.errors import DataError
from tvmopt.passes.prune.net_blocks import NetBlock
from tvmopt.passes.quantize.segments import Segments, write_array

Batch = tuple[Mapping[str, np.ndarray], tuple[np.ndarray, ...]]
"""What a block reads, by name, and what it should give, one array for each goal."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Goal:
    """A tensor of a block, and what it is to be.

    Attributes:
        made: The tensor.
        wanted: The same in the net as it was.
        chosen: Which of its channels are wanted; None: all, in order.
    """

    made: relax.Var
    wanted: relax.Var
    chosen: np.ndarray | None


class KeptBatches(Sequence[Batch]):
    """What a block reads in the net that changes, and its goals in the one as it was."""

    def __init__(
        self,
        block: NetBlock,
        goals: Sequence[Goal],
        segments: tuple[Segments, Segments],
        samples: Samples,
        folder: Path,
    ) -> None:
        """Run the samples up to the block.

        Raises:
            DataError: A tensor is not finite, or the disk is full.
        """
        own, dense = segments
        wanted = [goal.wanted for goal in goals]
        self._names = [var.name for var in block.inputs]
        self._goals, self._count = len(goals), len(samples)
        first = min(own.place[step.var] for step in block.steps)
        with (
            ExitStack() as files,
            own.part(list(block.inputs), first) as run,
            dense.part(wanted, 1 + max(dense.place[var] for var in wanted)) as run_dense,
        ):
            count = self._goals + len(self._names)
            stored = [_Array(folder / f"{i}.bin", files) for i in range(count)]
            for number, feed in enumerate(samples):
                made, target = run(number, feed), run_dense(number, feed)
                values = [_chosen(target[goal.wanted.name], goal) for goal in goals]
                values += [made[name] for name in self._names]
                for array, value in zip(stored, values, strict=True):
                    array.add(value, block.layers[0].name)
        self._arrays = [array.all(self._count) for array in stored]

    def __len__(self) -> int:
        """The number of batches."""
        return self._count

    def __getitem__(self, number: Any) -> Any:
        """Return a batch."""
        arrays = [np.asarray(array[number]) for array in self._arrays]
        inputs = dict(zip(self._names, arrays[self._goals :], strict=True))
        return inputs, tuple(arrays[: self._goals])


def _chosen(value: np.ndarray, goal: Goal) -> np.ndarray:
    return value if goal.chosen is None else value[..., goal.chosen]


class _Array:
    """A file of arrays of one shape."""

    def __init__(self, path: Path, files: ExitStack) -> None:
        self._path, self._like = path, np.zeros(0, np.float32)
        # Without a buffer a full disk shows in the write, not in closing the file.
        self._handle = files.enter_context(path.open("wb", buffering=0))

    def add(self, value: np.ndarray, layer: str) -> None:
        """Write one more.

        Raises:
            DataError: It is not finite, or the disk is full.
        """
        if not np.isfinite(value).all():
            raise DataError(
                f"layer {layer!r}: values must be finite for every calibration sample, got NaN or "
                "infinities; look at the samples"
            )
        self._like = value
        write_array(value, self._handle)

    def all(self, count: int) -> np.ndarray:
        """Return all of them, still on the disk."""
        shape = (count, *self._like.shape)
        return np.memmap(self._path, self._like.dtype, mode="r", shape=shape)
