"""Choose which blocks of a layer's weights become zero, and refit the others. NumPy, one layer.

A block is ``outputs x inputs`` weights: so many neighbouring outputs by so many neighbouring inputs
of one run of taps, which a sparse kernel multiplies by one instruction or leaves out whole. What a
block is worth, in the terms of ``problem``, with rows w_i of its weights and H_bb its inputs' part
of the Hessian:

* ``magnitude``: ``sum w_i w_i^T``; ``wanda``: each weight's square by its input's mean square,
  ``sum w_i diag(H_bb) w_i^T``;
* ``taylor``: ``sum w_i H_bb w_i^T``, the mean square of the first-order change of the layer's
  outputs. Without labels the loss is how far the outputs are from the dense ones, whose gradient is
  0 at the dense weights and ranks nothing; so the gradient is that of the outputs themselves. They
  are linear in the weights, which makes the first order the whole change. With one input a block it
  is ``wanda``; with several, inputs that cancel each other count together, as gates of a filter do.
* ``obs`` (second order): in rounds, by the rise of the objective when the other weights make up for
  the loss; see ``panels``. ``sparsegpt`` and ``admm``: the files of these names.

Sources: M. Sun et al., "A simple and effective pruning approach for large language models" (Wanda),
ICLR 2024, section 3; P. Molchanov et al., "Importance estimation for neural network pruning", CVPR
2019, equations 7 and 8, for the square of the summed first-order terms; that of the layer's output
is derived here. For the others, the files named.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from tvmopt.passes.prune.admm import admm_mask
from tvmopt.passes.prune.panels import Panels
from tvmopt.passes.prune.problem import Problem
from tvmopt.passes.prune.selection import Selection
from tvmopt.passes.prune.sparse_gpt import sparse_gpt_mask
from tvmopt.passes.prune.structures import Structure

Importance = Literal["magnitude", "wanda", "taylor", "obs", "sparsegpt", "admm"]
IMPORTANCES: tuple[Importance, ...] = get_args(Importance)
SECOND_ORDER: tuple[Importance, ...] = ("obs", "sparsegpt", "admm")


def choose_mask(
    problem: Problem, structure: Structure, sparsity: float, importance: Importance, rounds: int
) -> np.ndarray:
    """Return which blocks are kept, (panels, groups) bool.

    Args:
        problem: The layer.
        structure: What is pruned together.
        sparsity: Share of the blocks that becomes zero, in [0, 1); N:M structures say it
            themselves.
        importance: What is kept.
        rounds: In how many steps those that search get there, at least 1.
    """
    selection = Selection.of(problem, structure, sparsity)
    match importance:
        case "obs":
            return _surgeon(problem, selection, rounds)
        case "sparsegpt":
            return sparse_gpt_mask(problem, structure, selection)
        case "admm":
            return admm_mask(problem, selection, rounds)
    return selection.best(_worth(problem, selection, importance), selection.every, selection.count)


def refit(problem: Problem, structure: Structure, kept: np.ndarray) -> np.ndarray:
    """Return the weights of least objective that are zero where blocks are not kept, (o, k)."""
    return Panels(problem, Selection.of(problem, structure, 0.0)).weights(kept)


def masked(problem: Problem, structure: Structure, kept: np.ndarray) -> np.ndarray:
    """Return the weights at hand, zero where blocks are not kept, (o, k)."""
    selection = Selection.of(problem, structure, 0.0)
    result = problem.weight.copy()
    result[:, : problem.inputs] *= selection.spread(kept, len(result))
    return result


def _worth(problem: Problem, selection: Selection, importance: Importance) -> np.ndarray:
    """Return what each block is worth at one look, (panels, groups)."""
    weight = problem.weight[:, : problem.inputs]
    if importance == "magnitude":
        return selection.sums(np.square(weight))
    hessian = problem.hessian[: problem.inputs, : problem.inputs]
    if importance == "wanda":
        return selection.sums(np.square(weight) * np.diag(hessian))
    together = selection.group[:, None] == selection.group[None, :]
    return selection.sums(weight @ (hessian * together) * weight)


def _surgeon(problem: Problem, selection: Selection, rounds: int) -> np.ndarray:
    """Return the blocks that are left when in each round those go whose loss costs least."""
    panels, kept = Panels(problem, selection), selection.every
    for step in range(1, rounds + 1):
        kept = selection.best(panels.rises(kept), kept, selection.after(step / rounds))
    return kept
