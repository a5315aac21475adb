"""Fold batch norms, and every other constant scale and shift of channels, into the weights.

Before::

    y = conv2d(x, W)
    z = batch_norm(y, gamma, beta, mean, var)[0]     or multiply / add / subtract / divide by
                                                     constants of a channel each

After::

    y = conv2d(x, W * scale)
    z = add(y, shift)                                shift: (1, c, 1, 1)

and the same for transposed convolutions, matmuls by a constant matrix, and for a scale (where
nothing is padded: also a shift) in front of them. A batch norm that nothing can take becomes a
multiply and an add. Cost: the elementwise operators disappear; a shift stays as the one bias.

A chain is folded as a whole, in float64, and rounded once to the weight's dtype. Against the
unfolded graph each output moves by at most a few units in the last place of the terms it sums.

Source: B. Jacob et al., "Quantization and training of neural networks for efficient
integer-arithmetic-only inference", CVPR 2018, section 3.2, for folding into the weights;
the rest is derived here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.passes.canonicalize.affine_steps import IDENTITY, Affine, AffineStep, affine_step
from tvmopt.passes.canonicalize.linear_sites import LinearSite, linear_site
from tvmopt.passes.canonicalize.rebuild import Rebuild, rebuild_main
from tvmopt.report import Report


def fold(site: LinearSite, before: Affine, after: Affine) -> tuple[np.ndarray, np.ndarray]:
    """Move the affine maps around a linear operator into its weight.

    Args:
        site: The operator.
        before: What its data went through; its shift is zero unless ``site.takes_shift``.
        after: What its result goes through.

    Returns:
        The weight, in the layout and dtype of ``site.weight``, and the shift, (outputs,) float64,
        with ``op(x, weight) + shift == after(op(before(x), site.weight))`` up to rounding.
    """
    w = site.grouped()
    groups, outputs, inputs, _ = w.shape
    scale_in = np.broadcast_to(before.scale, groups * inputs).reshape(groups, 1, inputs, 1)
    shift_in = np.broadcast_to(before.shift, groups * inputs).reshape(groups, 1, inputs, 1)
    scale_out = np.broadcast_to(after.scale, groups * outputs)
    shift = np.sum(w * shift_in, axis=(2, 3)).reshape(-1) * scale_out + after.shift
    folded = w * scale_in * scale_out.reshape(groups, outputs, 1, 1)
    return site.ungrouped(folded), shift


@tvm.transform.module_pass(opt_level=0, name="FoldBatchNorm")
class FoldBatchNorm:
    """Fold every constant scale and shift of channels that a linear operator can take."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def transform_module(self, mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        """Return the rewritten module; ``mod`` is left as it was."""
        return rebuild_main(mod, lambda graph: _Folder(graph, self.report))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Chain:
    """What is folded into one linear operator.

    Attributes:
        weight: The new weight.
        shift: What is to be added to the result, of a shape that broadcasts, or None for nothing.
        source: What becomes the data, in the function as it was.
        tail: The variable that is to hold the result.
        inner: The variables between the operator and the tail.
    """

    weight: np.ndarray
    shift: np.ndarray | None
    source: relax.Expr
    tail: relax.Var
    inner: tuple[relax.Var, ...]


class _Folder:
    def __init__(self, graph: Rebuild, report: Report) -> None:
        self.graph = graph
        self.report = report
        self.heads: dict[relax.Var, _Chain] = {}
        sites = {
            var: site for var, value in graph.old.items() if (site := _site(var, value)) is not None
        }
        forward = {var: self._follow(var, site) for var, site in sites.items()}
        claimed = {v for steps in forward.values() for v, _ in steps}
        for var, site in sites.items():
            self._plan(var, site, forward[var], claimed)
        self.inner = {v: head for head, chain in self.heads.items() for v in chain.inner}
        self.tails = {chain.tail: head for head, chain in self.heads.items()}

    def __call__(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        if var in self.heads:
            chain = self.heads[var]
            args = [self.graph.renew(chain.source), relax.const(chain.weight), *value.args[2:]]
            value = relax.Call(value.op, args, value.attrs, value.ty_args)
            return self._shifted(chain, value) if chain.tail.same_as(var) else value
        if var in self.inner:
            # Nobody will read it: what it stood for is in the weights of the head.
            return self.graph.now(self.inner[var])
        if var in self.tails:
            head = self.tails[var]
            return self._shifted(self.heads[head], self.graph.now(head))
        return self._decompose(var, value)

    def _shifted(self, chain: _Chain, result: relax.Expr) -> relax.Expr:
        if chain.shift is None:
            return result
        return relax.op.add(self.graph.emit(result, chain.tail.name), relax.const(chain.shift))

    def _follow(self, var: relax.Var, site: LinearSite) -> list[tuple[relax.Var, AffineStep]]:
        """Return the affine steps that nothing but this operator's result goes through."""
        steps: list[tuple[relax.Var, AffineStep]] = []
        while (user := self._sole_user(var)) is not None:
            step = affine_step(self.graph.old, user, site.channel_axis)
            if step is None or not step.data.same_as(var):
                break
            steps.append((user, step))
            var = user
        return steps

    def _sole_user(self, var: relax.Var) -> relax.Var | None:
        """Return the one binding that reads ``var``, looking through the tuple of a batch norm."""
        users = self.graph.users.get(var, ())
        if self.graph.readers[var] != 1 or not users:
            return None
        if ir.is_call_to(self.graph.old[users[0]], "relax.nn.batch_norm"):
            return self._sole_user(users[0])
        return users[0]

    def _precede(
        self, data: relax.Expr, site: LinearSite, claimed: set[relax.Var]
    ) -> tuple[relax.Expr, Affine, int]:
        """Walk back over affine steps that only this operator reads.

        Returns:
            The data before them, the map they make, and how many they are.
        """
        source, whole, best = data, IDENTITY, (data, IDENTITY, 0)
        count = 0
        while isinstance(source, relax.Var) and source not in claimed:
            step = affine_step(self.graph.old, source, site.channel_axis)
            if step is None or self._sole_user_count(source, step) != 1:
                break
            source, whole, count = step.data, whole.after(step.map), count + 1
            if site.takes_shift or not np.any(whole.shift):
                best = (source, whole, count)
        return best

    def _sole_user_count(self, var: relax.Var, step: AffineStep) -> int:
        between = 1 if step.between is None else self.graph.readers[step.between]
        return max(self.graph.readers[var], between)

    def _plan(
        self,
        var: relax.Var,
        site: LinearSite,
        steps: list[tuple[relax.Var, AffineStep]],
        claimed: set[relax.Var],
    ) -> None:
        source, before, count = self._precede(self.graph.old[var].args[0], site, claimed)
        after = IDENTITY
        for _, step in steps:
            after = step.map.after(after)
        tail = steps[-1][0] if steps else var
        if count == 0 and (not steps or self._is_bias(tail, site, steps)):
            return
        weight, shift = fold(site, before, after)
        if not np.all(np.isfinite(weight)) and np.all(np.isfinite(site.weight)):
            self._note(var, applied=False, reason="the folded weight would overflow its dtype")
            return
        self.heads[var] = _Chain(
            weight=weight,
            shift=_broadcastable(shift, site) if np.any(shift) else None,
            source=source,
            tail=tail,
            inner=tuple(v for v, _ in steps[:-1]),
        )
        self._note(
            var,
            applied=True,
            reason=f"{count} steps before and {len(steps)} after it are constant for each channel",
        )

    def _is_bias(
        self, tail: relax.Var, site: LinearSite, steps: list[tuple[relax.Var, AffineStep]]
    ) -> bool:
        """Say whether the steps are the one add of a bias, in the form this pass leaves behind."""
        value = self.graph.old[tail]
        if len(steps) != 1 or not ir.is_call_to(value, "relax.add"):
            return False
        return ir.shape(value.args[1]) == _bias_shape(site) and ir.is_constant(value.args[1])

    def _decompose(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        """Turn a batch norm that no operator took into a multiply and an add."""
        old = self.graph.old[var]
        norm = self.graph.definition(value.tuple_value) if _is_first(value) else None
        if not ir.is_call_to(norm, "relax.nn.batch_norm"):
            return value
        rank = len(ir.shape(var))
        axis = norm.attrs.axis % rank
        step = affine_step(self.graph.old, var, axis)
        if step is None or not _is_first(old):
            return value
        self._note(var, applied=False, reason="no linear operator next to it can take it")
        dims = tuple(-1 if i == axis else 1 for i in range(rank))
        scale, shift = (
            relax.const(v.reshape(dims).astype(ir.dtype(var)))
            for v in (step.map.scale, step.map.shift)
        )
        scaled = self.graph.emit(relax.op.multiply(norm.args[0], scale), f"{var.name}_scale")
        return relax.op.add(scaled, shift)

    def _note(self, var: relax.Var, *, applied: bool, reason: str) -> None:
        self.report.add("FoldBatchNorm", var.name, applied=applied, reason=reason)


def _site(var: relax.Var, value: relax.Expr) -> LinearSite | None:
    if not isinstance(var.ty, relax.TensorType):
        return None
    site = linear_site(value, len(ir.shape(var)))
    # An accumulator wider than the weight would be rounded where the unfolded graph is not.
    return site if site is not None and ir.dtype(var) == str(site.weight.dtype) else None


def _is_first(value: relax.Expr) -> bool:
    return isinstance(value, relax.TupleGetItem) and value.index == 0


def _bias_shape(site: LinearSite) -> tuple[int, ...]:
    outputs = site.weight.shape[site.output_axis] * (site.groups if site.transposed else 1)
    if site.is_matmul:
        return (outputs,)
    return tuple(outputs if i == site.channel_axis else 1 for i in range(site.rank))


def _broadcastable(shift: np.ndarray, site: LinearSite) -> np.ndarray:
    return shift.astype(site.weight.dtype).reshape(_bias_shape(site))
