"""Set blocks of weights to zero, and let the others make up for it.

Before and after, for every layer that is pruned::

    y = conv2d | matmul(x, weight);  z = add(y, bias)       the same; the weight has blocks of zeros

Lowering sees the zeros and takes a kernel without them where it is faster. Layers are taken in
order: what each reads is what the pruned layers before it make of the samples, and what it is to
give is what the dense net gives (the *asymmetric* target). Cost: each binding of either graph runs
about once on every sample; then, a layer, what ``blocks`` says.

In second order the squared error of each output of a layer counts as much as the net's outputs feel
it (``felt_outputs``), which says where in the layer the zeros are; how the others make up for them
does not depend on it.

Sources: those of ``blocks`` and ``felt_outputs``. The asymmetric target: the output of the dense
layer on the dense net's inputs, fitted on the pruned net's, as in Y. Li et al., "GPTAQ: efficient
finetuning-free quantization for asymmetric calibration" (2025), there for rounding.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.calibration import Samples, Tap
from tvmopt.passes.canonicalize.rebuild import is_plain
from tvmopt.passes.prune.blocks import SECOND_ORDER, choose_mask, masked, refit
from tvmopt.passes.prune.changed import changed
from tvmopt.passes.prune.felt_outputs import felt_outputs
from tvmopt.passes.prune.float_layers import FloatLayer, float_layers
from tvmopt.passes.prune.layer_goals import Ground, set_goals
from tvmopt.passes.prune.order_channels import order_channels
from tvmopt.passes.prune.plain_tap import plain_tap
from tvmopt.passes.prune.problem import Problem
from tvmopt.passes.prune.prune_options import PruneWeightsOptions as PruneWeightsOptions
from tvmopt.passes.prune.structures import Goal, Structure
from tvmopt.passes.quantize.gptq import wanted_weights
from tvmopt.passes.quantize.hessian import Moments, MomentSum, regularized
from tvmopt.passes.quantize.layers import Layer, select
from tvmopt.passes.quantize.net_pair import Errand, NetPair, Progress, stages
from tvmopt.passes.quantize.repair_weights import sampled
from tvmopt.passes.quantize.weight_layers import Build
from tvmopt.prediction import Predict
from tvmopt.report import Report


class PruneWeights:
    """Prune the layers of a graph of floats, and note in the report what each lost.

    It is no TVM pass: what fails in one of those loses its type.

    Attributes:
        outputs: After a call, for each layer whose outputs were reordered, by its name: the number
            of each output among those that it had, (outputs,).
    """

    def __init__(
        self,
        options: PruneWeightsOptions,
        samples: Samples | None,
        tap: Tap | None,
        report: Report,
        *,
        predict: Predict | None = None,
        must_pay: Collection[str] = (),
        progress: Progress | None = None,
    ) -> None:
        """Take what is needed.

        Args:
            options: How.
            samples: What to run; None chooses by the weights' magnitude, for a forecast.
            tap: Compiles modules for this machine; None as ``samples``.
            report: Takes each decision.
            predict: The cost model of the target; None asks nobody.
            must_pay: The names of the layers that stay dense unless they get faster.
            progress: Is told of each layer; None tells nobody.
        """
        self.options, self.samples, self.tap, self.report = options, samples, tap, report
        self.predict, self.must_pay = predict, must_pay
        self._goals: Mapping[str, Goal] = {}
        self.outputs: dict[str, np.ndarray] = {}
        self._gains: Mapping[str, tuple[float, float]] = {}
        self._felt: Mapping[str, np.ndarray] = {}
        self.progress: Callable[[str, int, int], None] = progress or (lambda *_: None)

    def __call__(self, mod: tvm.IRModule) -> tvm.IRModule:
        """Return the pruned module; ``mod`` is left as it was.

        Raises:
            OptionError: A pattern matches no layer, or a Hessian is singular.
            DataError: A layer's values are not finite, or the disk for them is full.
        """
        if not is_plain(mod["main"]):
            self._note("main", applied=False, reason="it has control flow or side effects")
            return mod
        mod = ir.unique_names(mod)
        layers = self._with_goals(mod, self._layers(mod))
        if not layers:
            return mod
        mod, layers = self._reorder(mod, layers)
        if self.samples is None or self.tap is None:
            return changed(mod, self._by_magnitude(layers))
        errand = Errand(
            pass_name="PruneWeights",
            what="prune weights",
            reference=mod,
            samples=self.samples,
            tap=plain_tap(self.tap, len(self.samples)),
            report=self.report,
        )
        if self.options.importance in SECOND_ORDER:
            self._felt = felt_outputs(mod, errand.samples, errand.tap, self.options.seed)
        changes: dict[relax.Var, Build] = {}
        with tempfile.TemporaryDirectory(prefix="tvmopt-prune-") as folder:
            pair = NetPair(mod, mod, layers, errand, Path(folder))
            done = 0
            for stage in stages(layers):
                self.progress(errand.what, done, len(layers))
                for layer, moments in zip(stage, self._look_at(pair, stage), strict=True):
                    for var, build in layer.changes(self._prune(layer, moments)):
                        changes[var] = build
                        pair.compressed.change(var, build)
                done += len(stage)
            self.progress(errand.what, done, len(layers))

        return changed(mod, changes)

    def _with_goals(self, mod: tvm.IRModule, layers: Sequence[FloatLayer]) -> list[FloatLayer]:
        """Set what is asked of each layer, and return those of which anything is."""
        if layers:
            ground = Ground(
                mod=mod,
                layers=layers,
                options=self.options,
                predict=self.predict,
                must_pay=self.must_pay,
                samples=self.samples,
                tap=self.tap,
                progress=self.progress,
            )
            self._goals = set_goals(
                ground, lambda name, reason: self._note(name, applied=False, reason=reason)
            )
        return [layer for layer in layers if layer.name in self._goals]

    def _reorder(
        self, mod: tvm.IRModule, layers: list[FloatLayer]
    ) -> tuple[tvm.IRModule, list[FloatLayer]]:
        """Return the module and its layers with channels in an order that loses less."""
        goals = {layer.name: self._goal(layer.name) for layer in layers}
        if not self.options.reorder:
            return mod, layers
        ordered = order_channels(mod, layers, goals)
        self.outputs, self._gains = dict(ordered.outputs), ordered.gains
        found = {layer.name: which for layer, which in float_layers(ordered.mod, ordered.mod)}
        moved = (found[layer.name] for layer in layers)
        return ordered.mod, [layer for layer in moved if isinstance(layer, FloatLayer)]

    def _by_magnitude(self, layers: Sequence[FloatLayer]) -> dict[relax.Var, Build]:
        """Return the layers without their least blocks: zeros enough for a forecast of time."""
        changes = dict[relax.Var, Build]()
        for layer in layers:
            goal = self._goal(layer.name)
            rows = layer.rows()
            problem = Problem(
                weight=rows,
                wanted=rows,
                hessian=np.eye(rows.shape[1]),
                run=layer.run,
                has_bias=layer.reference_bias is not None,
            )
            kept = choose_mask(problem, goal.shape, goal.sparsity, "magnitude", 1)
            changes |= layer.changes(masked(problem, goal.shape, kept))
            share = f"{1 - kept.mean():.0%} of the {goal.structure} blocks"
            self._note(layer.name, applied=True, reason=f"{share} will be 0")
        return changes

    def _layers(self, mod: tvm.IRModule) -> list[FloatLayer]:
        """Return the layers to prune; those that are left are noted."""
        found = dict(float_layers(mod, mod))
        taken, left = select(list(found), self.options.layers, self.options.skip)
        for layer, reason in left:
            self._note(layer.name, applied=False, reason=reason)
        result: list[FloatLayer] = []
        for layer in taken:
            which = found[layer]
            reason = which if isinstance(which, str) else self._keep(layer)
            if reason:
                self._note(layer.name, applied=False, reason=reason)
            elif isinstance(which, FloatLayer):
                result.append(which)
        return result

    def _keep(self, layer: Layer) -> str:
        """Return why a layer stays dense; empty if it does not."""
        if (layer.first or layer.last) and not self.options.ends:
            return "first and last layers stay dense unless ends is set"
        shape = Structure.parse(self.options.structure)
        outputs = 1 if shape is None else shape.outputs
        if layer.outputs < outputs:
            return f"its {layer.outputs} outputs are fewer than a block's {outputs}"
        return ""

    def _goal(self, name: str) -> Goal:
        """Return what is asked of the layer of a name."""
        return self._goals[name]

    def _look_at(self, pair: NetPair, stage: Sequence[FloatLayer]) -> list[Moments]:
        """Run the samples up to a stage's layers, and return what these see and should give."""
        sums = [
            MomentSum(
                layer.rows()[None], has_bias=layer.reference_bias is not None, layer=layer.name
            )
            for layer in stage
        ]
        share = max(1, self.options.rows // pair.batches)
        for number, (inputs, outputs) in enumerate(pair.run(stage, outputs=False)):
            seed = (self.options.seed, number)
            for layer, total in zip(stage, sums, strict=True):
                x, y = inputs[layer.data.name], outputs[layer.reference.name]
                total.add(*sampled(layer, x, y, share, seed))
        return [total.finish() for total in sums]

    def _prune(self, layer: FloatLayer, moments: Moments) -> np.ndarray:
        """Return the layer's weights with zeros, in the form of ``FloatLayer.rows``."""
        options, goal = self.options, self._goal(layer.name)
        has_bias = layer.reference_bias is not None
        hessian = regularized(moments.inputs, options.ridge, has_bias=has_bias)
        weight = layer.rows()
        problem = Problem(
            weight=weight,
            wanted=wanted_weights(weight[None], moments.missed, hessian)[0],
            hessian=hessian[0],
            run=layer.run,
            has_bias=has_bias,
        )
        felt = problem.weighted(self._felt.get(layer.name))
        kept = choose_mask(felt, goal.shape, goal.sparsity, options.importance, options.rounds)
        make = refit if options.repair else masked
        rows = make(problem, goal.shape, kept)
        error = float(moments.error((rows - weight)[None]).sum())
        share = error / (float(moments.wanted.sum()) or 1.0)
        self._note(
            layer.name,
            applied=True,
            reason=f"{1 - kept.mean():.0%} of the {goal.structure} blocks are 0, output error "
            f"{share:.3g} of the output's square{self._gain(layer)}",
        )
        return rows

    def _gain(self, layer: FloatLayer) -> str:
        """Return what a better order of channels brought a layer."""
        if layer.name not in self._gains:
            return ""
        before, after = self._gains[layer.name]
        return (
            f"; its channels reordered, the largest blocks hold {after:.1%} of the weights' "
            f"squares instead of {before:.1%}"
        )

    def _note(self, site: str, *, applied: bool, reason: str) -> None:
        self.report.add("PruneWeights", site, applied=applied, reason=reason)
