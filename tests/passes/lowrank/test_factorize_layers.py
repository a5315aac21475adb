"""Mirror of factorize_layers.py, factorized.py, layer_problem.py and options.py: a small net."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.calibration import Samples, Tap
from tvmopt.errors import OptionError
from tvmopt.lowering import predict_layers
from tvmopt.passes.lowrank.factorize_layers import FactorizeLayers
from tvmopt.passes.lowrank.options import FactorizeLayersOptions
from tvmopt.report import Report
from tvmopt.targets import CpuTarget

Build = Callable[..., tvm.IRModule]
Counts = Callable[[tvm.IRModule], Counter[str]]
ROWS, WIDTH = 48, 64
ALL = frozenset(("fc0", "fc1", "fc2", "fc3"))


def _low(seed: int, rank: int) -> relax.Expr:
    """Return a matrix most of which is of a rank."""
    rng = np.random.default_rng(seed)
    thin = rng.standard_normal((WIDTH, rank)) @ rng.standard_normal((rank, WIDTH)) / rank**0.5
    weight = (thin + 0.05 * rng.standard_normal((WIDTH, WIDTH))) / WIDTH**0.5
    return relax.const(weight.astype(np.float32))


@pytest.fixture(scope="module")
def net(build: Build) -> tvm.IRModule:
    """Four linear layers with biases; the two in the middle are of about rank 6 and of rank 64."""

    def body(builder: relax.BlockBuilder, x: relax.Var) -> relax.Expr:
        for i, rank in enumerate((64, 6, 64, 64)):
            y = builder.emit(relax.op.matmul(x, _low(i, rank)), f"fc{i}")
            bias = np.random.default_rng(9 + i).standard_normal(WIDTH).astype(np.float32)
            y = builder.emit(relax.op.add(y, relax.const(bias)), f"sum{i}")
            x = builder.emit(relax.op.nn.relu(y), f"act{i}") if i < 3 else y
        return x

    return build(body, (ROWS, WIDTH))


@pytest.fixture(scope="module")
def samples(make_samples: Callable[..., Samples]) -> Samples:
    return make_samples((ROWS, WIDTH))


@pytest.fixture
def factorize(
    net: tvm.IRModule, samples: Samples, tap: Tap, here: CpuTarget
) -> Callable[..., tuple[tvm.IRModule, Report]]:
    def run(
        *, must_pay: frozenset[str] = ALL, blind: bool = False, **options: object
    ) -> tuple[tvm.IRModule, Report]:
        report = Report()
        make = FactorizeLayers(
            FactorizeLayersOptions(**options),
            None if blind else samples,
            None if blind else tap,
            report,
            predict=lambda mod: predict_layers(mod, here),
            must_pay=must_pay,
        )
        return make(net), report

    return run


def _shapes(mod: tvm.IRModule) -> dict[str, tuple[int, ...]]:
    return {
        var.name: ir.static_shape(value.args[1])
        for var, value in ir.bindings(mod["main"])
        if ir.is_call_to(value, "relax.matmul")
    }


def _reasons(report: Report) -> dict[str, str]:
    return {decision.site: decision.reason for decision in report.decisions}


def _error(mod: tvm.IRModule, dense: tvm.IRModule, samples: Samples, tap: Tap) -> float:
    runs = [tap(net, ["sum3"]) for net in (mod, dense)]
    got, want = ([run(feed)["sum3"] for feed in samples] for run in runs)
    return float(np.mean(np.square(np.array(got) - np.array(want))))


Factorize = Callable[..., tuple[tvm.IRModule, Report]]


def test_a_layer_of_low_rank_becomes_two(factorize: Factorize) -> None:
    new, report = factorize(error=0.05)
    shapes = _shapes(new)
    rank = shapes["fc1__first"][1]
    assert 4 <= rank <= 8
    assert shapes["fc1__first"] == (WIDTH, rank)
    assert shapes["fc1"] == (rank, WIDTH)
    assert "fc1" in [decision.site for decision in report.decisions if decision.applied]
    assert f"svd of rank {rank} of 64, output error 0.0" in _reasons(report)["fc1"]
    assert "as fast" in _reasons(report)["fc1"]


def test_layers_that_would_be_slower_are_left_with_the_reason(factorize: Factorize) -> None:
    new, report = factorize(error=0.0001)
    assert _shapes(new)["fc2"] == (WIDTH, WIDTH)
    assert "as slow as it is, by svd of rank" in _reasons(report)["fc2"]


def test_slower_layers_stay_as_they_are_even_where_they_need_not_pay(factorize: Factorize) -> None:
    new, _ = factorize(error=0.0001, must_pay=frozenset())
    assert _shapes(new)["fc2"] == (WIDTH, WIDTH)  # neither faster nor smaller


def test_the_ends_are_left_unless_they_are_asked_for(factorize: Factorize) -> None:
    new, report = factorize(rank_by="share", share=0.1)
    assert set(_shapes(new)) == {"fc0", "fc1__first", "fc1", "fc2__first", "fc2", "fc3"}
    assert _reasons(report)["fc0"] == "first and last layers stay as they are unless ends is set"
    assert "fc0__first" in _shapes(factorize(rank_by="share", share=0.1, ends=True)[0])


def test_what_follows_a_layer_stays(
    factorize: Factorize, net: tvm.IRModule, counts: Counts
) -> None:
    new, _ = factorize(rank_by="share", share=0.1)
    assert counts(new) == counts(net) + Counter(matmul=2)
    values = {var.name: value for var, value in ir.bindings(new["main"])}
    assert values["sum1"].args[0].name == "fc1"
    assert values["fc1"].args[0].name == "fc1__first"


def test_whitened_factors_keep_the_outputs_better(
    factorize: Factorize, net: tvm.IRModule, samples: Samples, tap: Tap
) -> None:
    errors = [
        _error(factorize(rank_by="share", share=0.3, whiten=whiten)[0], net, samples, tap)
        for whiten in (True, False)
    ]
    assert errors[0] < errors[1]


def test_the_given_net_is_left_as_it_was(factorize: Factorize, net: tvm.IRModule) -> None:
    before = _shapes(net)
    factorize(rank_by="share", share=0.1)
    assert _shapes(net) == before


def test_without_samples_the_weights_alone_choose(factorize: Factorize) -> None:
    new, report = factorize(blind=True, error=0.05)
    # Of squares, rank 6 has 1 and the rest 0.05^2: a share far below 0.05.
    assert _shapes(new)["fc1__first"][1] <= 8
    assert _reasons(report)["fc1"].startswith("svd of rank")


def test_named_layers_are_left(factorize: Factorize) -> None:
    new, report = factorize(rank_by="share", share=0.1, skip={"fc1": "the user says so"})
    assert "fc1__first" not in _shapes(new)
    assert _reasons(report)["fc1"] == "the user says so"


def test_methods_for_kernels_leave_matmuls(factorize: Factorize, net: tvm.IRModule) -> None:
    new, report = factorize(method="tucker")
    assert _shapes(new) == _shapes(net)
    assert _reasons(report)["fc1"] == "its kernel is 1x1, and tucker is for wider ones"


def test_layers_of_too_many_inputs_are_left(factorize: Factorize) -> None:
    _, report = factorize(most_inputs=10)
    assert _reasons(report)["fc1"] == "it has 65 weights an output, 'most_inputs' allows 10"


def test_an_impossible_speed_is_told(factorize: Factorize, net: tvm.IRModule) -> None:
    new, report = factorize(rank_by="speedup", speedup=1e6)
    assert _shapes(new) == _shapes(net)
    assert _reasons(report)["fc1"] == "no rank is fast enough"


def test_a_pattern_that_matches_nothing_is_refused(factorize: Factorize) -> None:
    with pytest.raises(OptionError, match="conv"):
        factorize(layers=("conv*",))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"method": "cp"}, "method must be one of 'auto', 'svd', 'spatial', 'tucker', got 'cp'"),
        ({"rank_by": "luck"}, "rank_by must be one of 'error', 'energy', 'speedup', 'share'"),
        ({"error": 0.0}, r"error must be in \(0, 1\), got 0.0"),
        ({"energy": 1.0}, r"energy must be in \(0, 1\), got 1.0"),
        ({"share": 1.5}, r"share must be in \(0, 1\), got 1.5"),
        ({"speedup": 1.0}, "speedup must be above 1, got 1.0"),
        ({"ridge": 0.0}, r"ridge must be in \(0, 1\], got 0.0"),
        ({"sweeps": -1}, "sweeps must be at least 0, got -1"),
        ({"rows": 0}, "rows must be at least 1, got 0"),
    ],
)
def test_options_outside_their_domain_are_refused(option: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        FactorizeLayersOptions(**option)
