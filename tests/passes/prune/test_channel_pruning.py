"""Mirror of passes/prune/prune_channels.py, channel_candidates.py and channel_fit.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.calibration import Samples, Tap
from tvmopt.errors import OptionError
from tvmopt.passes.prune.changed import changed
from tvmopt.passes.prune.channel_candidates import Candidate, find_candidates
from tvmopt.passes.prune.channel_effects import output_effects
from tvmopt.passes.prune.channel_groups import Channels
from tvmopt.passes.prune.channel_loss import Reader, descend
from tvmopt.passes.prune.channel_options import PruneChannelsOptions
from tvmopt.passes.prune.float_layers import float_layers
from tvmopt.passes.prune.prune_channels import PruneChannels
from tvmopt.report import Report

Build = Callable[..., tvm.IRModule]
Pruned = tuple[tvm.IRModule, Report, PruneChannels]
ROWS, WIDTH, HIDDEN = 40, 16, 32


def _weight(seed: int, *shape: int) -> relax.Expr:
    values = np.random.default_rng(seed).standard_normal(shape) / np.sqrt(shape[0])
    return relax.const(values.astype(np.float32))


@pytest.fixture(scope="module")
def net(build: Build) -> tvm.IRModule:
    """A residual sum around a wide hidden layer, and a layer that reads the sum."""

    def body(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        def linear(data: relax.Expr, name: str, seed: int, *shape: int) -> relax.Expr:
            product = builder.emit(relax.op.matmul(data, _weight(seed, *shape)), name)
            return builder.emit(relax.op.add(product, _weight(seed + 9, shape[1])), f"{name}_sum")

        stem = linear(x, "stem", 1, WIDTH, WIDTH)
        hidden = builder.emit(relax.op.nn.relu(linear(stem, "up", 2, WIDTH, HIDDEN)), "act")
        down = linear(hidden, "down", 3, HIDDEN, WIDTH)
        total = builder.emit(relax.op.add(down, stem), "total")
        return linear(total, "head", 4, WIDTH, 4)

    return build(body, (ROWS, WIDTH))


@pytest.fixture(scope="module")
def samples(make_samples: Callable[..., Samples]) -> Samples:
    return make_samples((ROWS, WIDTH))


def _macs(mod: tvm.IRModule) -> Mapping[str, float]:
    """A cost model: the products of each layer."""
    return {
        var.name: float(ROWS * np.prod(ir.static_shape(value.args[1])))
        for var, value in ir.bindings(mod["main"])
        if ir.is_call_to(value, "relax.matmul")
    }


def _prune(
    mod: tvm.IRModule, samples: Samples | None, tap: Tap | None, **options: object
) -> Pruned:
    report = Report()
    prune = PruneChannels(PruneChannelsOptions(**options), samples, tap, report, predict=_macs)
    return prune(mod), report, prune


def _shapes(mod: tvm.IRModule) -> dict[str, tuple[int, ...]]:
    return {
        var.name: ir.static_shape(value.args[1])
        for var, value in ir.bindings(mod["main"])
        if ir.is_call_to(value, "relax.matmul")
    }


def _error(mod: tvm.IRModule, dense: tvm.IRModule, samples: Samples, tap: Tap) -> float:
    runs = [tap(net, ["head_sum"]) for net in (mod, dense)]
    outputs = [[run(feed)["head_sum"] for feed in samples] for run in runs]
    return float(np.mean(np.square(np.array(outputs[0]) - np.array(outputs[1]))))


QUARTER: Mapping[str, object] = {"ratio": 0.25, "allocation": "uniform", "align": 4}


@pytest.fixture(scope="module")
def quarter(net: tvm.IRModule, samples: Samples, tap: Tap) -> Pruned:
    """The net without a quarter of its channels."""
    return _prune(net, samples, tap, **QUARTER)


def test_every_layer_of_a_group_gets_smaller(quarter: Pruned) -> None:
    pruned, report, prune = quarter
    assert _shapes(pruned) == {"stem": (16, 12), "up": (12, 24), "down": (24, 12), "head": (12, 4)}
    assert {name: len(kept) for name, kept in prune.outputs.items()} == {
        "stem": 12,
        "up": 24,
        "down": 12,
    }
    assert np.array_equal(prune.outputs["stem"], prune.outputs["down"])
    told = {(d.site, d.applied, d.reason.split(",")[0]) for d in report.decisions}
    assert told >= {
        ("up", True, "24 of 32 channels are left"),
        ("head", True, "12 of 16 inputs are left"),
        ("head", False, "it is an output of the net"),
    }


def test_refitting_keeps_the_outputs_better(
    quarter: Pruned, net: tvm.IRModule, samples: Samples, tap: Tap
) -> None:
    without = _prune(net, samples, tap, repair=False, **QUARTER)[0]
    error = {mod: _error(mod, net, samples, tap) for mod in (quarter[0], without)}
    assert 0.0 < error[quarter[0]] < 0.8 * error[without]


def test_effects_are_what_the_outputs_lose_over_what_readers_lose(
    net: tvm.IRModule, samples: Samples, tap: Tap
) -> None:
    layers = {layer.name: found for layer, found in float_layers(net, net)}
    found = find_candidates(
        Channels(net), layers, align=8, most=0.5, leave=lambda group: "" if group.size > 4 else "no"
    )
    candidates = [one for _, one in found if isinstance(one, Candidate)]
    assert [one.group.name for one in candidates] == ["stem/16", "up/32"]
    readers = [
        [
            Reader(weight=layer.rows(), hessian=np.eye(layer.rows().shape[1]), energy=2.0, places=p)
            for layer, p in one.readers
        ]
        for one in candidates
    ]
    ladders = [descend([], one.made, one.counts, "magnitude") for one in candidates]
    effects = output_effects(net, candidates, readers, ladders, samples, tap, lambda *_: None)
    # By hand for the hidden units, of which a quarter goes: zeros in the weight that reads them.
    ((down, places),) = candidates[1].readers
    gone = np.setdiff1d(np.arange(HIDDEN), ladders[1].kept(24)[0])
    assert np.array_equal(places[0, gone, 0], gone)
    rows = down.rows()
    lost = np.sum(np.square(rows[:, gone])) / 2.0
    rows[:, gone] = 0.0
    without = changed(net, dict(down.changes(rows)))
    energy = _error(without, net, samples, tap) / _energy(net, samples, tap)
    # Sums of some dozens of float32 products: 1e-6 each, and squares of their differences.
    assert effects[1] == pytest.approx(energy / lost, rel=1e-4)


def _energy(mod: tvm.IRModule, samples: Samples, tap: Tap) -> float:
    run = tap(mod, ["head_sum"])
    return float(np.mean([np.square(run(feed)["head_sum"]) for feed in samples]))


def test_the_share_of_time_is_taken_where_the_outputs_lose_least(
    quarter: Pruned, net: tvm.IRModule, samples: Samples, tap: Tap
) -> None:
    pruned, _, _ = _prune(net, samples, tap, ratio=0.2, align=4)
    share = 1.0 - sum(_macs(pruned).values()) / sum(_macs(net).values())
    assert 0.2 <= share < 0.4
    # Per product that goes, it loses no more than a quarter of every group does.
    loss = {mod: _error(mod, net, samples, tap) for mod in (pruned, quarter[0])}
    whole = sum(_macs(net).values())
    saved = {mod: 1.0 - sum(_macs(mod).values()) / whole for mod in loss}
    assert loss[pruned] / saved[pruned] <= loss[quarter[0]] / saved[quarter[0]]


def test_the_dense_net_is_left_as_it_was(net: tvm.IRModule) -> None:
    before = _shapes(net)
    _prune(net, None, None, ratio=0.4)
    assert _shapes(net) == before


def test_a_share_of_the_predicted_time_goes(net: tvm.IRModule) -> None:
    pruned, _, _ = _prune(net, None, None, ratio=0.3, align=2)
    share = 1.0 - sum(_macs(pruned).values()) / sum(_macs(net).values())
    # The steps are of two channels, which are 8 % of the products at most.
    assert 0.3 <= share < 0.38


def test_a_forecast_has_the_shapes_of_the_pruned_net(quarter: Pruned, net: tvm.IRModule) -> None:
    forecast, report, _ = _prune(net, None, None, **QUARTER)
    assert _shapes(forecast) == _shapes(quarter[0])
    told = {d.site: d.reason for d in report.decisions if d.applied}
    assert told["head"] == "4 of its inputs will go"


def test_what_is_not_faster_stays(net: tvm.IRModule) -> None:
    report = Report()

    def no_faster(mod: tvm.IRModule) -> Mapping[str, float]:
        return dict.fromkeys(_macs(mod), 1.0)

    options = PruneChannelsOptions(allocation="uniform")
    kept = PruneChannels(options, None, None, report, predict=no_faster)(net)
    assert _shapes(kept) == _shapes(net)
    reasons = {d.site: d.reason for d in report.decisions}
    assert reasons["up"] == "it is not faster with fewer of its 32 channels"
    smaller = PruneChannels(options, None, None, report, predict=no_faster, must_pay=())(net)
    assert _shapes(smaller)["up"] == (16, 24)


def test_layers_that_are_named_stay(net: tvm.IRModule) -> None:
    pruned, report, _ = _prune(
        net, None, None, allocation="uniform", ratio=0.5, skip={"head": "the user says so"}
    )
    assert _shapes(pruned) == {"stem": (16, 16), "up": (16, 16), "down": (16, 16), "head": (16, 4)}
    assert any(d.site == "stem" and d.reason == "the user says so" for d in report.decisions)


def test_only_layers_of_a_pattern_lose_outputs(net: tvm.IRModule) -> None:
    pruned, report, _ = _prune(net, None, None, allocation="uniform", ratio=0.5, layers=("u*",))
    assert _shapes(pruned) == {"stem": (16, 16), "up": (16, 16), "down": (16, 16), "head": (16, 4)}
    assert any(d.reason == "no pattern of 'layers' matches it" for d in report.decisions)
    with pytest.raises(OptionError, match="conv"):
        _prune(net, None, None, layers=("conv*",))


def test_counts_are_multiples_of_what_they_are_aligned_to(net: tvm.IRModule) -> None:
    pruned, report, _ = _prune(net, None, None, allocation="uniform", ratio=0.5, align=16)
    assert _shapes(pruned)["up"] == (16, 16)
    assert any(d.reason == "of 16 channels no multiple of 16 can go" for d in report.decisions)


def test_what_a_layer_of_too_many_inputs_reads_stays(net: tvm.IRModule) -> None:
    pruned, report, _ = _prune(net, None, None, allocation="uniform", ratio=0.5, most_inputs=20)
    assert _shapes(pruned) == {"stem": (16, 8), "up": (8, 32), "down": (32, 8), "head": (8, 4)}
    reasons = {d.site: d.reason for d in report.decisions if not d.applied}
    assert reasons["up"] == "down: it reads 32 inputs, more than 20"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"ratio": 0.0}, r"ratio must be in \(0, 1\), got 0.0"),
        ({"ratio": 1.0}, r"ratio must be in \(0, 1\), got 1.0"),
        ({"most": 1.0}, r"most must be in \(0, 1\), got 1.0"),
        ({"allocation": "even"}, "allocation must be one of 'uniform', 'global', 'time', got"),
        ({"importance": "taylor"}, "importance must be one of 'obs', 'wanda', 'magnitude', got"),
        ({"ridge": 0.0}, r"ridge must be in \(0, 1\], got 0.0"),
        ({"align": 0}, "align must be at least 1, got 0"),
        ({"rows": 0}, "rows must be at least 1, got 0"),
        ({"most_inputs": 0}, "most_inputs must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_impossible_options_are_refused(option: Mapping[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        PruneChannelsOptions(**option)
