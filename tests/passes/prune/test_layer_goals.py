"""Mirror of passes/prune/layer_goals.py, layer_curves.py, goal_times.py and layer_effects.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.calibration import Samples, Tap
from tvmopt.errors import OptionError
from tvmopt.passes.canonicalize.rebuild import rebuild_main
from tvmopt.passes.prune.float_layers import FloatLayer, float_layers
from tvmopt.passes.prune.layer_curves import LayerCurves
from tvmopt.passes.prune.layer_effects import layer_effects
from tvmopt.passes.prune.layer_goals import Ground, set_goals
from tvmopt.passes.prune.prune_options import PruneWeightsOptions
from tvmopt.passes.prune.structures import Goal
from tvmopt.passes.quantize.layers import find_layers
from tvmopt.prediction import Predict

Build = Callable[..., tvm.IRModule]
ROWS, WIDTH = 12, 32
OUT = "fc3_act"
NAMES = ("fc0", "fc1", "fc2", "fc3")


@pytest.fixture(scope="module")
def net(build: Build) -> tvm.IRModule:
    """Four linear layers in a row, the second of which hardly matters to the result."""
    rng = np.random.default_rng(0)

    def body(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        before = x
        for name in NAMES:
            weight = rng.standard_normal((WIDTH, WIDTH)) / np.sqrt(WIDTH)
            y = builder.emit(relax.op.matmul(x, relax.const(weight.astype("f4"))), name)
            x = builder.emit(relax.op.tanh(y), f"{name}_act")
            if name == "fc1":  # adds little to what it reads
                small = builder.emit(relax.op.multiply(x, relax.const(np.float32(0.01))), "small")
                x = builder.emit(relax.op.add(small, before), "past")
            before = x
        return x

    return build(body, (ROWS, WIDTH))


@pytest.fixture(scope="module")
def samples(make_samples: Callable[..., Samples]) -> Samples:
    return make_samples((ROWS, WIDTH))


def _zeros(mod: tvm.IRModule) -> dict[str, np.ndarray]:
    return {layer.name: layer.weight.T == 0 for layer in find_layers(mod["main"]).values()}


def _predict(kernels: Mapping[str, tuple[int, float]], dense: Mapping[str, float]) -> Predict:
    """A cost model: the time of what is not zero, in blocks of outputs for which there are kernels.

    ``kernels`` says for each name of a kernel how many outputs it takes and what a weight costs
    beside one of the dense kernel.
    """

    def predict(mod: tvm.IRModule) -> dict[str, float]:
        times = {}
        for name, zero in _zeros(mod).items():
            found = [dense[name]]
            for outputs, cost in kernels.values():
                blocks = zero.reshape(-1, outputs, WIDTH).all(1)
                found.append(dense[name] * cost * (1 - float(blocks.mean())))
            times[name] = min(found)
        return times

    return predict


EVEN = dict.fromkeys(NAMES, 100.0)


def _goals(
    mod: tvm.IRModule,
    predict: Predict | None,
    samples: Samples | None = None,
    tap: Tap | None = None,
    must_pay: tuple[str, ...] = NAMES,
    **options: object,
) -> tuple[dict[str, Goal], dict[str, str]]:
    layers = [own for _, own in float_layers(mod, mod) if isinstance(own, FloatLayer)]
    left: dict[str, str] = {}
    ground = Ground(
        mod=mod,
        layers=layers,
        options=PruneWeightsOptions(**options),
        predict=predict,
        must_pay=must_pay,
        samples=samples,
        tap=tap,
        progress=lambda *_: None,
    )
    return set_goals(ground, left.__setitem__), left


def test_uniform_shares_are_those_asked_for(net: tvm.IRModule) -> None:
    goals, left = _goals(net, None, sparsity=0.6, structure="4x1")
    assert goals == dict.fromkeys(NAMES, Goal(structure="4x1", sparsity=0.6))
    assert left == {}


def test_layers_that_get_no_faster_stay_dense_unless_they_need_not(net: tvm.IRModule) -> None:
    predict = _predict({"4": (4, 1.8)}, EVEN)
    goals, left = _goals(net, predict, sparsity=0.4, structure="4x1", must_pay=("fc0", "fc1"))
    assert list(goals) == ["fc2", "fc3"]
    assert left["fc0"] == "with 40% of its 4x1 blocks 0 it is predicted to be no faster"
    assert list(_goals(net, predict, sparsity=0.5, structure="4x1")[0]) == list(NAMES)


@pytest.mark.parametrize("allocation", ["global", "sensitivity"])
def test_the_mean_is_kept(net: tvm.IRModule, samples: Samples, tap: Tap, allocation: str) -> None:
    goals, _ = _goals(net, None, samples, tap, sparsity=0.7, structure="4x1", allocation=allocation)
    mean = np.mean([goals[name].sparsity if name in goals else 0.0 for name in NAMES])
    # All layers have as many weights; less than one block of 4 in 4 * 1024.
    assert abs(mean - 0.7) < 4 / (4 * WIDTH * WIDTH)


def test_layers_that_matter_little_lose_more(net: tvm.IRModule, samples: Samples, tap: Tap) -> None:
    goals, _ = _goals(
        net, None, samples, tap, sparsity=0.5, structure="4x1", allocation="sensitivity"
    )
    shares = {name: goals[name].sparsity if name in goals else 0.0 for name in NAMES}
    assert shares["fc1"] > 0.8
    assert max(shares[name] for name in ("fc0", "fc2", "fc3")) < 0.5


def test_effects_are_those_of_layers_changed_alone(
    net: tvm.IRModule, samples: Samples, tap: Tap
) -> None:
    layers = list(find_layers(net["main"]).values())
    other = {layer: np.where(layer.weight > 0.1, 0, layer.weight).astype("f4") for layer in layers}
    told: list[tuple[int, int]] = []
    found = layer_effects(net, other, samples, tap, lambda *step: told.append(step))
    for layer in (layers[1], layers[3]):
        run, dense = tap(_with(net, layer.name, other[layer]), [OUT]), tap(net, [OUT])
        error = sum(float(np.sum((run(f)[OUT] - dense(f)[OUT]) ** 2)) for f in samples)
        energy = sum(float(np.sum(dense(f)[OUT] ** 2)) for f in samples)
        # x W + x D against x (W + D), both in float32: 1e-7 of the values, beside an error of 1e-3.
        assert found[layer.name] == pytest.approx(error / energy, rel=1e-2)
    assert found["fc1"] < 0.01 * found["fc3"]
    assert told == [(0, 2), (1, 2), (2, 2)]


def _with(mod: tvm.IRModule, name: str, weight: np.ndarray) -> tvm.IRModule:
    def rule(var: relax.Var, value: relax.Expr) -> relax.Expr:
        if var.name != name:
            return value
        return ir.with_changes(value, [value.args[0], relax.const(weight)])

    return rebuild_main(mod, lambda _graph: rule)


def test_time_is_spent_where_it_is_saved(net: tvm.IRModule) -> None:
    # The last layer takes nearly all of the time.
    predict = _predict({"4": (4, 1.1)}, {"fc0": 1.0, "fc1": 1.0, "fc2": 1.0, "fc3": 500.0})
    goals, left = _goals(net, predict, sparsity=0.5, structure="4x1", allocation="time")
    assert goals["fc3"].sparsity >= 0.7
    assert all(goals[name].sparsity <= 0.5 for name in goals if name != "fc3")
    uniform, _ = _goals(net, predict, sparsity=0.5, structure="4x1")
    assert _cost(net, goals) <= _cost(net, uniform) * (1 + 1e-9)
    assert set(left) | set(goals) == set(NAMES)


def _cost(mod: tvm.IRModule, goals: Mapping[str, Goal]) -> float:
    layers = [own for _, own in float_layers(mod, mod) if isinstance(own, FloatLayer)]
    curves = LayerCurves(mod, layers, None, None)
    return sum(
        curves.curve(layer, goals[layer.name].structure).lost(goals[layer.name].sparsity)
        for layer in layers
        if layer.name in goals
    )


def test_the_structure_is_that_of_the_kernels(net: tvm.IRModule) -> None:
    # Only blocks of 8 outputs have a kernel.
    goals, _ = _goals(net, _predict({"8": (8, 1.0)}, EVEN), sparsity=0.6, structure="auto")
    assert {goal.structure for goal in goals.values()} == {"8x1"}
    # Kernels of as many times: fewer outputs a block lose less.
    even = _predict({"1": (1, 1.0), "8": (8, 1.0)}, EVEN)
    goals, _ = _goals(net, even, sparsity=0.6, structure="auto")
    assert {goal.structure for goal in goals.values()} == {"1x1"}
    # One weight at a time that saves hardly anything is not worth it.
    slow = _predict({"1": (1, 2.45), "8": (8, 0.2)}, EVEN)
    goals, _ = _goals(net, slow, sparsity=0.6, structure="auto")
    assert {goal.structure for goal in goals.values()} == {"8x1"}


def test_times_must_be_known_where_they_are_asked_for(net: tvm.IRModule) -> None:
    for options in ({"allocation": "time"}, {"structure": "auto"}):
        with pytest.raises(OptionError, match="must have a cost model, got none"):
            _goals(net, None, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"allocation": "even"}, "allocation must be one of 'uniform', 'global', 'sensitivity', "),
        ({"structure": "automatic"}, "structure must be 'auto', 'unstructured'"),
        (
            {"structure": "2:4", "allocation": "global"},
            "allocation must be 'uniform' where structure is '2:4'",
        ),
    ],
)
def test_impossible_options_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        PruneWeightsOptions(**options)
