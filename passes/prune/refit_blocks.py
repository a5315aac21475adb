"""Go through a changed net block by block, the net as it was beside it, and tune each block.

What a block reads is what the blocks before it, tuned already, make of the samples; what it is to
give is the same tensor of the net as it was. Both are kept on the disk while the block is tuned.

Source: none; derived here, on what ``net_blocks`` and ``tune_block`` cite.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tvm
from tvm import relax

from tvmopt import forms, ir
from tvmopt.passes.prune.block_net import Trained, trained_of
from tvmopt.passes.prune.kept_batches import Goal, KeptBatches
from tvmopt.passes.prune.net_blocks import NetBlock, net_blocks, order_of
from tvmopt.passes.prune.tune_block import Tuned, tune_block
from tvmopt.passes.quantize.net_pair import Errand
from tvmopt.passes.quantize.segments import Segments
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
    """A block and what it is to give."""

    block: NetBlock
    goal: Goal


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
            errand.reference, samples, errand.tap, places[1], [p.goal.wanted for p in pairs]
        )
        for number, pair in enumerate(pairs):
            tell("tune blocks", number, len(pairs))
            kept = KeptBatches(pair.block, [pair.goal], (own, dense), samples, places[2])
            trained = [one for one in trained_of(pair.block) if one.layer.name in how.taken]
            tuned = tune_block(pair.block, trained, kept, steps=how.steps, seed=how.seed)
            _note(errand, pair.block, tuned)
            for var, build in changes_of(tuned.trained, tuned.values):
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
        goal = goal_of(found.output, mod, named, how.outputs)
        if isinstance(goal, Goal) and place[goal.wanted] <= reached:
            goal = "the net as it was computes its block in another order"
        if isinstance(goal, str):
            for layer in found.layers:
                errand.note(layer.name, applied=False, reason=goal)
        elif any(layer.name in how.taken for layer in found.layers):
            reached = place[goal.wanted]
            yield _Pair(block=found, goal=goal)


def goal_of(
    made: relax.Var,
    mod: tvm.IRModule,
    named: Mapping[str, relax.Var],
    outputs: Mapping[str, np.ndarray],
) -> Goal | str:
    """Return what a tensor is to be, or why nobody knows.

    Args:
        made: A tensor of ``mod``, the output of a block.
        mod: The net that changes.
        named: The bindings of the net as it was, by name.
        outputs: As in ``Tuning``.
    """
    wanted, chosen = named.get(made.name), order_of(made, mod, outputs)
    if isinstance(chosen, str):
        return chosen
    if wanted is None:
        return "the net as it was has no tensor to compare its block's output with"
    shape = ir.static_shape(wanted)
    shape = shape if chosen is None else (*shape[:-1], len(chosen))
    if shape != ir.static_shape(made):
        return "its block's output has another shape in the net as it was"
    return Goal(made=made, wanted=wanted, chosen=chosen)


def _note(errand: Errand, block: NetBlock, tuned: Tuned) -> None:
    for layer in block.layers:
        errand.note(
            layer.name,
            applied=True,
            reason=f"tuned with its block: error {tuned.before:.3g} -> {tuned.after:.3g} of the "
            "block's output",
        )


def changes_of(
    trained: Sequence[Trained], values: Sequence[np.ndarray]
) -> Iterator[tuple[relax.Var, Build]]:
    """Yield the variables whose constants changed, and how they are built."""
    for one, value in zip(trained, values, strict=True):
        yield one.var, _with(one, relax.const(value))


def _with(one: Trained, constant: relax.Expr) -> Build:
    def build(value: relax.Expr, _emit: forms.Emit) -> relax.Expr:
        args = [constant if i == one.place else arg for i, arg in enumerate(value.args)]
        return ir.with_changes(value, args)

    return build
