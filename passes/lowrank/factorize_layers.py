"""Put two or three thin layers in the place of a wide one.

Before::

    y = conv2d | matmul(x, weight);  z = add(y, bias)

After, by one of ``truncated_svd``, ``separate_spatial`` and ``tucker``::

    h = conv2d | matmul(x, first)                           x__first
    y = conv2d | matmul(h, last);    z = add(y, bias')      keeps the name, and what follows it

Cost: a layer of o outputs and k inputs has o k products for each of them, its factors of rank r
about r (o + k). A layer is factorized only where the cost model says that this is faster, or, where
the recipe keeps more than that, smaller. Layers are taken in order: what each reads is what the
factors before it make of the samples, and what it is to give is what the dense net gives.

Sources: those of the methods and of ``problem``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.calibration import Samples, Tap
from tvmopt.passes.canonicalize.rebuild import is_plain
from tvmopt.passes.lowrank.clock import Clock
from tvmopt.passes.lowrank.factorized import Factorized, with_factors
from tvmopt.passes.lowrank.factors import factor_names, product
from tvmopt.passes.lowrank.layer_problem import problem_of_weights, problems_of
from tvmopt.passes.lowrank.options import FactorizeLayersOptions
from tvmopt.passes.lowrank.problem import Problem
from tvmopt.passes.lowrank.search import Choice, choose, why_not
from tvmopt.passes.prune.float_layers import FloatLayer, float_layers
from tvmopt.passes.quantize.layers import Layer, select
from tvmopt.passes.quantize.net_pair import Errand, NetPair, Progress, stages
from tvmopt.prediction import Predict
from tvmopt.report import Report


class FactorizeLayers:
    """Factorize the layers of a graph of floats, and note in the report what each lost.

    It is no TVM pass: what fails in one of those loses its type.

    Attributes:
        outputs: Empty: every layer keeps all its outputs.
    """

    def __init__(
        self,
        options: FactorizeLayersOptions,
        samples: Samples | None,
        tap: Tap | None,
        report: Report,
        *,
        predict: Predict,
        must_pay: Collection[str],
        progress: Progress | None = None,
    ) -> None:
        """Take what is needed.

        Args:
            options: How.
            samples: What to run; None chooses by the weights alone, for a forecast.
            tap: Compiles modules for this machine; None as ``samples``.
            report: Takes each decision.
            predict: The cost model of the target.
            must_pay: Names of the layers that stay as they are unless they get faster.
            progress: Is told of each layer; None tells nobody.
        """
        self.options, self.samples, self.tap, self.report = options, samples, tap, report
        self.predict, self.must_pay = predict, must_pay
        self.outputs: dict[str, np.ndarray] = {}
        self.progress: Callable[[str, int, int], None] = progress or (lambda *_: None)
        self._clock = Clock(predict)

    def __call__(self, mod: tvm.IRModule) -> tvm.IRModule:
        """Return the factorized module; ``mod`` is left as it was.

        Raises:
            OptionError: A pattern matches no layer, or a Hessian is singular.
            DataError: A layer's values are not finite, or the disk for them is full.
        """
        if not is_plain(mod["main"]):
            self._note("main", applied=False, reason="it has control flow or side effects")
            return mod
        mod = ir.unique_names(mod)
        layers = self._layers(mod)
        done = list(self._factorized(mod, layers))
        new = with_factors(mod, done)
        kept = self._paying(mod, new, done)
        return new if len(kept) == len(done) else with_factors(mod, kept)

    def _layers(self, mod: tvm.IRModule) -> list[FloatLayer]:
        """Return the layers to factorize; those that are left are noted."""
        found = dict(float_layers(mod, mod))
        taken, left = select(list(found), self.options.layers, self.options.skip)
        for layer, reason in left:
            self._note(layer.name, applied=False, reason=reason)
        result: list[FloatLayer] = []
        for layer in taken:
            which = found[layer]
            if isinstance(which, str):
                self._note(layer.name, applied=False, reason=self._no_matrix(layer))
            elif reason := self._keep(which):
                self._note(layer.name, applied=False, reason=reason)
            else:
                result.append(which)
        return result

    def _no_matrix(self, layer: Layer) -> str:
        if layer.depthwise:
            return "each output of a depthwise convolution reads one channel: there is no rank"
        return "only matmuls by a matrix and NHWC convolutions of one group can be factorized"

    def _keep(self, layer: FloatLayer) -> str:
        """Return why a layer stays as it is; empty if it does not."""
        options, inputs = self.options, layer.rows().shape[1]
        if (layer.layer.first or layer.layer.last) and not options.ends:
            return "first and last layers stay as they are unless ends is set"
        if inputs > options.most_inputs:
            return f"it has {inputs} weights an output, 'most_inputs' allows {options.most_inputs}"
        return why_not(options.method, layer.patches.kernel)

    def _factorized(self, mod: tvm.IRModule, layers: Sequence[FloatLayer]) -> Iterator[Factorized]:
        """Yield the layers that were factorized, in order; those that are left are noted."""
        calls, options = dict(ir.bindings(mod["main"])), self.options
        if self.samples is None or self.tap is None:
            for layer in layers:
                problem = problem_of_weights(layer)
                yield from self._one(layer, calls[layer.var], problem)
            return
        if not layers:
            return
        errand = Errand(
            pass_name="FactorizeLayers",
            what="factorize layers",
            reference=mod,
            samples=self.samples,
            tap=self.tap,
            report=self.report,
        )
        with tempfile.TemporaryDirectory(prefix="tvmopt-factorize-") as folder:
            pair = NetPair(mod, mod, layers, errand, Path(folder))
            seen = 0
            for stage in stages(layers):
                self.progress(errand.what, seen, len(layers))
                for layer, problem in zip(stage, problems_of(pair, stage, options), strict=True):
                    for one in self._one(layer, calls[layer.var], problem):
                        for var, make in one.changes():
                            pair.compressed.change(var, make)
                        yield one
                seen += len(stage)
            self.progress(errand.what, seen, len(layers))

    def _one(self, layer: FloatLayer, call: relax.Call, problem: Problem) -> Iterator[Factorized]:
        """Yield the layer as factors, if it shall have some."""
        has_bias = layer.reference_bias is not None
        base = self._clock.layer(call, has_bias=has_bias)
        choice = choose(
            problem,
            self.options.method,
            self.options.rule,
            base,
            lambda shapes: self._clock.factors(call, shapes, has_bias=has_bias),
        )
        reason = self._too_slow(layer, choice, base)
        if choice is None or reason:
            self._note(layer.name, applied=False, reason=reason)
            return
        factors = choice.line.solve(choice.rank, self.options.sweeps)
        weight = product(factors)
        error, gain = problem.error(weight), base / choice.cycles
        yield Factorized(
            layer=layer,
            factors=factors,
            bias=problem.bias_for(weight),
            reason=f"{choice.line.describe(choice.rank)}, output error {error:.3g}, "
            f"predicted {gain:.2f}x as fast",
        )

    def _too_slow(self, layer: FloatLayer, choice: Choice | None, base: float) -> str:
        """Return why a layer stays as it is; empty if it does not."""
        if choice is None:
            rule = self.options.rule
            what = f"within an error of {rule.amount:g}" if rule.by == "error" else "fast enough"
            return f"no rank is {what}"
        if choice.cycles < base:
            return ""
        if layer.name not in self.must_pay and choice.weights < layer.layer.weight.size:
            return ""
        return (
            f"predicted to be {choice.cycles / base:.2f}x as slow as it is, by "
            f"{choice.line.describe(choice.rank)}"
        )

    def _paying(
        self, mod: tvm.IRModule, new: tvm.IRModule, done: Sequence[Factorized]
    ) -> list[Factorized]:
        """Return the layers that get faster in the net as well, or need not; note all."""
        if not done:
            return []
        before, after = self.predict(mod), self.predict(new)
        kept = []
        for one in done:
            name = one.layer.name
            old, now = before.get(name), sum(after.get(n, 0.0) for n in factor_names(name))
            slower = old is not None and now >= old and name in self.must_pay
            if not slower:
                kept.append(one)
            why = "in this net the factors are predicted to be no faster"
            self._note(name, applied=not slower, reason=why if slower else one.reason)
        return kept

    def _note(self, site: str, *, applied: bool, reason: str) -> None:
        self.report.add("FactorizeLayers", site, applied=applied, reason=reason)
