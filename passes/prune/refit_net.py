"""Tune a changed net as a whole, the net as it was beside it.

The whole is the longest stretch of layers through which derivatives are known. What it reads, and
what it is to give, is kept on the disk.

Source: none; derived here, on what ``tune_net`` cites.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.passes.prune.block_net import trained_of
from tvmopt.passes.prune.kept_batches import Goal, KeptBatches
from tvmopt.passes.prune.net_blocks import NetBlock, longest_stretch, net_blocks
from tvmopt.passes.prune.refit_blocks import Tuning, changes_of, goal_of
from tvmopt.passes.prune.tune_block import Tuned
from tvmopt.passes.prune.tune_net import tune_net
from tvmopt.passes.quantize.layers import Layer
from tvmopt.passes.quantize.net_pair import Errand
from tvmopt.passes.quantize.segments import Segments
from tvmopt.passes.quantize.weight_layers import Build

_SITE = "main"  # of decisions about the whole
_Whole = tuple[NetBlock, tuple[Goal, ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """How long a net may be tuned.

    Attributes:
        passes: The most passes over the samples, at least 1.
        work: About how many 10^9 multiply-adds forwards they may take, at least 1.
    """

    passes: int
    work: int

    def of(self, block: NetBlock, batches: int) -> int:
        """Return how many passes are made, at least 1."""
        each = sum(map(_multiplications, block.layers)) * batches
        return max(1, min(self.passes, self.work * 10**9 // each))


def layers_of_whole(mod: tvm.IRModule, errand: Errand, how: Tuning) -> frozenset[str]:
    """Return the names of the layers that ``tuned_net`` would tune, if they are taken."""
    whole = _whole(mod, errand, how)
    return frozenset() if isinstance(whole, str) else frozenset(one.name for one in whole[0].layers)


def tuned_net(
    mod: tvm.IRModule, errand: Errand, how: Tuning, budget: Budget
) -> dict[relax.Var, Build]:
    """Return what must change in ``mod`` for it to be tuned as a whole.

    Args:
        mod: A net of floats with distinct names.
        errand: What is needed; its reference has distinct names.
        how: How; its batches and steps are those of blocks.
        budget: How long.

    Raises:
        DataError: A tensor is not finite, or the disk is full.
    """
    whole = _whole(mod, errand, how)
    if isinstance(whole, str):
        errand.note(_SITE, applied=False, reason=f"not tuned as a whole: {whole}")
        return {}
    block = whole[0]
    trained = [one for one in trained_of(block) if one.layer.name in how.taken]
    if not trained:
        return {}
    tell, passes = errand.progress or (lambda *_: None), budget.of(block, len(errand.samples))
    with tempfile.TemporaryDirectory(prefix="tvmopt-tune-") as folder:
        tuned = tune_net(
            block,
            trained,
            _kept(mod, whole, errand, Path(folder)),
            whole[1],
            passes=passes,
            seed=how.seed,
            tell=lambda done: tell("tune the net", done, passes),
        )
    _note(errand, block, tuned, passes)
    return dict(changes_of(trained, tuned.values))


def _kept(mod: tvm.IRModule, whole: _Whole, errand: Errand, folder: Path) -> KeptBatches:
    """Return what the whole reads, and what it is to give, kept in a folder."""
    block, goals = whole
    places = [folder / kind for kind in ("own", "wanted", "net")]
    for place in places:
        place.mkdir()
    own = Segments(mod, errand.samples, errand.tap, places[0], [block.output])
    wanted = [goal.wanted for goal in goals]
    dense = Segments(errand.reference, errand.samples, errand.tap, places[1], wanted)
    return KeptBatches(block, goals, (own, dense), errand.samples, places[2])


def _note(errand: Errand, block: NetBlock, tuned: Tuned, passes: int) -> None:
    errand.note(
        _SITE,
        applied=True,
        reason=f"{block.layers[0].name!r} to {block.layers[-1].name!r} tuned together: error "
        f"{tuned.before:.3g} -> {tuned.after:.3g} of the output's square, on samples not fitted "
        f"to, in {passes} passes",
    )


def _multiplications(layer: Layer) -> int:
    outputs = layer.weight.shape[-1] if layer.is_matmul else layer.weight.shape[0]
    return prod(ir.static_shape(layer.var)) * layer.weight.size // outputs


def _whole(mod: tvm.IRModule, errand: Errand, how: Tuning) -> _Whole | str:
    """Return the whole, and its goals, the output's first; or why there is none."""
    block = longest_stretch(mod)
    if isinstance(block, str):
        return block
    named = {var.name: var for var, _ in ir.bindings(errand.reference["main"])}
    output = goal_of(block.output, mod, named, how.outputs)
    if isinstance(output, str):
        return output
    return block, (output, *_between(block, mod, named, how))


def _between(
    block: NetBlock, mod: tvm.IRModule, named: dict[str, relax.Var], how: Tuning
) -> Iterator[Goal]:
    inside = {step.var for step in block.steps} - {block.output}
    for found in net_blocks(mod):
        if isinstance(found, NetBlock) and found.output in inside:
            goal = goal_of(found.output, mod, named, how.outputs)
            if isinstance(goal, Goal):
                yield goal
