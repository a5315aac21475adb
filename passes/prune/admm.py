"""Search for the mask of least objective by the alternating direction method of multipliers.

The objective is least squares over all weights, and the mask a projection: the largest blocks stay.
Both are solved in turn, bound together by a multiplier u and a growing strength r::

    w = argmin (w - t) H (w - t)^T + r |w - z + u|^2,  z = the largest blocks of w + u,  u += w - z

One eigendecomposition of H serves all panels, rounds and strengths, so a round costs two products
of (o, k) by (k, k), whatever the blocks: for one weight a block this is far cheaper than an inverse
a panel, and by the objectives measured as good as ``obs`` in 32 rounds.

Sources: S. Boyd et al., "Distributed optimization and statistical learning via the alternating
direction method of multipliers", 2011, section 9.1, for constraints that are not convex; X. Meng et
al., "ALPS: improved optimization for highly sparse one-shot pruning for large language models",
NeurIPS 2024, section 3, for doing it to a layer with a shared eigendecomposition and a growing
strength. The schedule, blocks and the unpenalized bias are derived here.
"""

from __future__ import annotations

import numpy as np

from tvmopt.passes.prune.problem import Problem
from tvmopt.passes.prune.selection import Selection

_STEPS = 10  # a round
_START = 0.03  # strength, as a share of the Hessian's mean diagonal
_END = 1.5  # likewise; further growth no longer changes the mask
_STILL = 5  # steps without a change, once the strength is its end's tenth, and it will not change


def admm_mask(problem: Problem, selection: Selection, rounds: int) -> np.ndarray:
    """Return which blocks are kept, (panels, groups) bool.

    Args:
        problem: The layer.
        selection: Its blocks.
        rounds: Of ten steps, at least 1.
    """
    # Single precision: a mask is wanted, and a step's error is nothing to what the next one moves.
    values, vectors = (part.astype(np.float32) for part in np.linalg.eigh(problem.hessian))
    wanted = problem.wanted.astype(np.float32)
    inputs, steps = problem.inputs, _STEPS * rounds
    strength = _START * float(np.diag(problem.hessian)[:inputs].mean())
    last = strength * _END / _START
    growth = (_END / _START) ** (1 / steps)
    pull = (wanted @ vectors) * values
    split, multiplier = wanted, np.zeros_like(wanted)
    kept, still = selection.every, 0
    for _ in range(steps):
        level = np.float32(strength)
        at = (pull + level * ((split - multiplier) @ vectors)) / (values + level)
        moved = at @ vectors.T + multiplier
        worth = selection.sums(np.square(moved[:, :inputs]))
        before, kept = kept, selection.best(worth, selection.every, selection.count)
        settled = strength > 0.1 * last and np.array_equal(kept, before)
        still = still + 1 if settled else 0
        if still == _STILL:
            break
        split = moved.copy()
        split[:, :inputs] *= selection.spread(kept, len(moved))
        multiplier = (moved - split) / np.float32(growth)
        strength *= growth
    return kept
