"""Choose blocks column by column, each loss passed on to the columns behind it. One sweep.

With U upper triangular, ``U^T U = H^-1``, the loss of a weight of column j, all columns before it
settled, raises the objective by ``(w_j / U_jj)^2``. In windows of columns the blocks of least sum
go; then the window's columns are gone through and each loss is made up for by all columns behind.
The mask is what is taken; the weights are refitted exactly where a refit is asked for.

Source: E. Frantar and D. Alistarh, "SparseGPT: massive language models can be accurately pruned in
one-shot", ICML 2023, algorithm 1 and section 3.3 (adaptive masks, N:M). Sums over blocks are
derived here.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tvmopt.passes.prune.problem import Problem
from tvmopt.passes.prune.selection import Selection
from tvmopt.passes.prune.structures import Structure

_WINDOW = 128  # columns; as in the paper


def sparse_gpt_mask(problem: Problem, structure: Structure, selection: Selection) -> np.ndarray:
    """Return which blocks are kept, (panels, groups) bool.

    Args:
        problem: The layer.
        structure: What is pruned together.
        selection: Its blocks.
    """
    inverse = np.linalg.inv(problem.hessian)
    factor = np.linalg.cholesky(0.5 * (inverse + inverse.T)).T
    weight, kept = problem.wanted.copy(), selection.every
    share, settled = selection.count / kept.size, 0
    for first, last in _windows(problem, structure):
        columns = slice(first, last)
        groups = slice(selection.group[first], selection.group[last - 1] + 1)
        whole = kept[:, : groups.stop].size
        until = max(1, round(share * whole)) if structure.of is None else None
        part = _part(selection, columns, groups, until if until is None else until - settled)
        worth = part.sums(np.square(weight[:, columns] / np.diag(factor)[columns]))
        kept[:, groups] = part.best(worth, part.every, part.count)
        settled += int(kept[:, groups].sum())
        stays = part.spread(kept[:, groups], len(weight))
        _pass_on(weight, factor, columns, stays)
    return kept


def _windows(problem: Problem, structure: Structure) -> Iterator[tuple[int, int]]:
    """Yield the first and last but one column of each window; none cuts a block or a set."""
    unit = problem.groups(structure.of or structure.inputs)
    most = 1 if structure.of is not None else _WINDOW
    first = 0
    while first < problem.inputs:
        last = min(first + most, problem.inputs)
        while last < problem.inputs and unit[last] == unit[last - 1]:
            last += 1
        yield first, last
        first = last


def _part(selection: Selection, columns: slice, groups: slice, count: int | None) -> Selection:
    """Return the blocks of a window; ``count`` of them are kept, or what their set allows."""
    group = selection.group[columns] - groups.start
    sets = None if selection.sets is None else np.zeros(groups.stop - groups.start, int)
    if count is None:
        count = selection.panels * min(selection.most, groups.stop - groups.start)
    return Selection(
        panels=selection.panels,
        outputs=selection.outputs,
        group=group,
        sets=sets,
        most=selection.most,
        count=count,
    )


def _pass_on(weight: np.ndarray, factor: np.ndarray, columns: slice, stays: np.ndarray) -> None:
    """Set what goes to zero, in place, and let all columns behind it make up for it."""
    losses = np.zeros(stays.shape)
    for column in range(columns.start, columns.stop):
        here = column - columns.start
        losses[:, here] = np.where(stays[:, here], 0.0, weight[:, column]) / factor[column, column]
        behind = slice(column, columns.stop)
        weight[:, behind] -= losses[:, here, None] * factor[column, behind]
    weight[:, columns.stop :] -= losses @ factor[columns, columns.stop :]
