"""Go through a changed net block by block, the net as it was beside it, and tune each block.

What a block reads is what the blocks before it, tuned already, make of the samples; what it is to
give is the same tensor of the net as it was. Both are kept on the disk while the block is tuned.

Source: none; derived here, on what ``net_blocks`` and ``tune_block`` cite.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmopt import forms, ir
from tvmopt.calibration import Samples
from tvmopt.errors import DataError
from tvmopt.passes.prune.block_net import Trained, trained_of
from tvmopt.passes.prune.net_blocks import NetBlock, net_blocks, order_of
from tvmopt.passes.prune.tune_block import Batch, Tuned, tune_block
from tvmopt.passes.quantize.net_pair import Errand
from tvmopt.passes.quantize.segments import Segments, write_array
from tvmopt.passes.quantize.weight_layers import Build


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tuning:
    """How blocks are tuned.

    Attributes:
        batches: At most how many batches are looked at, at least 1.
        steps: The most steps for a block, at least 1.
        seed: Of what is drawn, at least 0.
        outputs: For each layer that lost or reordered outputs, by name: the numbers that they had.
        taken: The names of the layers that may change.
    """

    batches: int
    steps: int
    seed: int
    outputs: Mapping[str, np.ndarray]
    taken: frozenset[str]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Pair:
    """A block and what it is to give.

    Attributes:
        block: The block.
        wanted: The tensor behind it in the net as it was.
        chosen: Which of its channels are wanted; None: all, in order.
    """

    block: NetBlock
    wanted: relax.Var
    chosen: np.ndarray | None


def tuned_blocks(mod: tvm.IRModule, errand: Errand, how: Tuning) -> dict[relax.Var, Build]:
    """Return what must change in ``mod`` for its blocks to be tuned.

    Args:
        mod: A net of floats with distinct names.
        errand: What is needed; its reference has distinct names.
        how: How.

    Raises:
        DataError: A tensor is not finite, or the disk is full.
    """
    pairs = list(_pairs(mod, errand, how))
    changes: dict[relax.Var, Build] = {}
    if not pairs:
        return changes
    samples, tell = errand.samples.spread(how.batches), errand.progress or (lambda *_: None)
    with tempfile.TemporaryDirectory(prefix="tvmopt-tune-") as name:
        places = [Path(name) / kind for kind in ("own", "wanted", "block")]
        for place in places:
            place.mkdir()
        own = Segments(mod, samples, errand.tap, places[0], [p.block.output for p in pairs])
        dense = Segments(
            errand.reference, samples, errand.tap, places[1], [p.wanted for p in pairs]
        )
        for number, pair in enumerate(pairs):
            tell("tune blocks", number, len(pairs))
            kept = _Kept(pair, (own, dense), samples, places[2])
            trained = [one for one in trained_of(pair.block) if one.layer.name in how.taken]
            tuned = tune_block(pair.block, trained, kept, steps=how.steps, seed=how.seed)
            _note(errand, pair.block, tuned)
            for var, build in _changes(tuned):
                changes[var] = build
                own.change(var, build)
    tell("tune blocks", len(pairs), len(pairs))
    return changes


def _pairs(mod: tvm.IRModule, errand: Errand, how: Tuning) -> Iterator[_Pair]:
    """Yield the blocks that can be tuned; layers of others are noted."""
    named = {var.name: var for var, _ in ir.bindings(errand.reference["main"])}
    place = {var: i for i, var in enumerate(named.values())}
    reached = -1
    for found in net_blocks(mod):
        if isinstance(found, tuple):
            errand.note(found[0].name, applied=False, reason=found[1])
            continue
        wanted, chosen = named.get(found.output.name), order_of(found.output, mod, how.outputs)
        reason = chosen if isinstance(chosen, str) else _unlike(found, wanted, chosen)
        if not reason and wanted is not None and place[wanted] <= reached:
            reason = "the net as it was computes its block in another order"
        if reason:
            for layer in found.layers:
                errand.note(layer.name, applied=False, reason=reason)
        elif wanted is not None and any(layer.name in how.taken for layer in found.layers):
            assert not isinstance(chosen, str), "that is a reason"
            reached = place[wanted]
            yield _Pair(block=found, wanted=wanted, chosen=chosen)


def _unlike(block: NetBlock, wanted: relax.Var | None, chosen: np.ndarray | None) -> str:
    """Return why what a block gives cannot be compared; empty if it can."""
    if wanted is None:
        return "the net as it was has no tensor to compare its block's output with"
    shape = ir.static_shape(wanted)
    shape = shape if chosen is None else (*shape[:-1], len(chosen))
    if shape != ir.static_shape(block.output):
        return "its block's output has another shape in the net as it was"
    return ""


class _Kept(Sequence[Batch]):
    """What a block reads and should give, batch by batch, on the disk."""

    def __init__(
        self, pair: _Pair, segments: tuple[Segments, Segments], samples: Samples, folder: Path
    ) -> None:
        """Run the samples up to the block, in the net that changes and the one as it was."""
        own, dense = segments
        block, wanted = pair.block, pair.wanted
        self._names = [var.name for var in block.inputs]
        self._count = len(samples)
        first = min(own.place[step.var] for step in block.steps)
        with (
            ExitStack() as files,
            own.part(list(block.inputs), first) as run,
            dense.part([wanted], 1 + dense.place[wanted]) as run_dense,
        ):
            stored = [_Array(folder / f"{i}.bin", files) for i in range(1 + len(self._names))]
            for number, feed in enumerate(samples):
                made, target = run(number, feed), run_dense(number, feed)[wanted.name]
                target = target if pair.chosen is None else target[..., pair.chosen]
                for array, value in zip(
                    stored, [target, *(made[name] for name in self._names)], strict=True
                ):
                    array.add(value, block.layers[0].name)
        self._arrays = [array.all(self._count) for array in stored]

    def __len__(self) -> int:
        """The number of batches."""
        return self._count

    def __getitem__(self, number: Any) -> Any:
        """Return a batch."""
        wanted, *inputs = (np.asarray(array[number]) for array in self._arrays)
        return dict(zip(self._names, inputs, strict=True)), wanted


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


def _note(errand: Errand, block: NetBlock, tuned: Tuned) -> None:
    for layer in block.layers:
        errand.note(
            layer.name,
            applied=True,
            reason=f"tuned with its block: error {tuned.before:.3g} -> {tuned.after:.3g} of the "
            "block's output",
        )


def _changes(tuned: Tuned) -> Iterator[tuple[relax.Var, Build]]:
    """Yield the variables whose constants changed, and how they are built."""
    for one, value in zip(tuned.trained, tuned.values, strict=True):
        yield one.var, _with(one, relax.const(value))


def _with(one: Trained, constant: relax.Expr) -> Build:
    def build(value: relax.Expr, _emit: forms.Emit) -> relax.Expr:
        args = [constant if i == one.place else arg for i, arg in enumerate(value.args)]
        return ir.with_changes(value, args)

    return build
