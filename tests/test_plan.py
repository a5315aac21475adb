"""Which layers a recipe leaves alone because they would not pay."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import tvm
from tvm import relax

from tvmopt import LayerRule, Recipe, ir
from tvmopt.layer_dtypes import layer_dtypes
from tvmopt.passes.quantize.quantize_static import QuantizeStaticOptions
from tvmopt.passes.quantize.repair_weights import RepairWeightsOptions
from tvmopt.plan import Plan, make_plan

NAMES = ("one", "two", "three")
STATIC = QuantizeStaticOptions(sensitive_bits=2)


def _chain() -> tvm.IRModule:
    """Three linear layers in a row, with ReLU between."""
    rng = np.random.default_rng(0)
    x = relax.Var("x", relax.TensorType((4, 16), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            flow: relax.Expr = x
            for name in NAMES:
                weight = relax.const(rng.standard_normal((16, 16)).astype("f4"))
                flow = builder.emit(relax.op.matmul(flow, weight), name)
                flow = builder.emit(relax.op.nn.relu(flow), f"{name}_act")
            out = builder.emit_output(flow)
        builder.emit_func_output(out)
    return builder.get()


def _predict(
    floats: Mapping[str, float], integers: Mapping[str, float], conversion: float
) -> Callable[[tvm.IRModule], dict[str, float]]:
    """Return a cost model: so much a layer, so much a tensor that floats hand to integers."""

    def predict(mod: tvm.IRModule) -> dict[str, float]:
        quantized = {name for name, d in layer_dtypes(mod).items() if d.data == "uint8"}
        times = {name: (integers if name in quantized else floats)[name] for name in NAMES}
        for var, value in ir.bindings(mod["main"]):
            source = var.name.removesuffix("_act_quantized")
            if ir.is_call_to(value, "relax.quantize") and source not in quantized:
                times[var.name] = conversion
        return times

    return predict


def _left(plan: Plan) -> list[str]:
    return list(plan.leave)


def test_layers_that_pay_are_compressed() -> None:
    predict = _predict(dict.fromkeys(NAMES, 100.0), dict.fromkeys(NAMES, 40.0), 10.0)
    plan = make_plan(_chain(), Recipe(passes=(STATIC,)), predict)
    assert _left(plan) == []
    assert plan.total == (300.0, 130.0)
    # The conversion of the input counts for the first layer, which alone reads it.
    assert plan.cycles == {"one": (100.0, 50.0), "two": (100.0, 40.0), "three": (100.0, 40.0)}
    assert {str(d) for d in plan.after.values()} == {"uint8 x 8-bit by channel"}


def test_a_layer_that_costs_more_than_it_saves_is_left_alone() -> None:
    slow = {"one": 40.0, "two": 40.0, "three": 120.0}
    plan = make_plan(
        _chain(), Recipe(passes=(STATIC,)), _predict(dict.fromkeys(NAMES, 100.0), slow, 10.0)
    )
    assert _left(plan) == ["three"]
    assert plan.leave["three"] == (
        "predicted to be 1.20x as slow as uint8 x 8-bit by channel, with the conversions that it "
        "needs"
    )
    assert plan.total == (300.0, 190.0)
    assert str(plan.after["three"]) == "float32"


def test_conversions_may_make_a_slower_layer_worth_it() -> None:
    # Alone "two" loses 5; left in floats it would need a conversion of 30 in front of "three".
    slow = {"one": 40.0, "two": 105.0, "three": 40.0}
    plan = make_plan(
        _chain(), Recipe(passes=(STATIC,)), _predict(dict.fromkeys(NAMES, 100.0), slow, 30.0)
    )
    assert _left(plan) == []
    assert plan.total == (300.0, 215.0)


def test_nothing_is_compressed_where_nothing_pays() -> None:
    predict = _predict(dict.fromkeys(NAMES, 100.0), dict.fromkeys(NAMES, 99.0), 500.0)
    plan = make_plan(_chain(), Recipe(passes=(STATIC,)), predict)
    assert set(_left(plan)) == set(NAMES)
    assert plan.total == (300.0, 300.0)
    assert {str(d) for d in plan.after.values()} == {"float32"}


def test_what_the_recipe_keeps_stays_whatever_it_costs() -> None:
    slow = _predict(dict.fromkeys(NAMES, 100.0), dict.fromkeys(NAMES, 200.0), 10.0)
    for keep in ("smaller", "all"):
        plan = make_plan(_chain(), Recipe(passes=(STATIC,), keep=keep), slow)
        assert _left(plan) == []
    rule = LayerRule(match=("two",), keep="all")
    plan = make_plan(_chain(), Recipe(passes=(STATIC,), layers=(rule,)), slow)
    assert set(_left(plan)) == {"one", "three"}


def test_rules_hold_in_a_plan_and_repairs_wait_for_samples() -> None:
    predict = _predict(dict.fromkeys(NAMES, 100.0), dict.fromkeys(NAMES, 40.0), 10.0)
    rules = (LayerRule(role=("first",), skip=True), LayerRule(match=("two",), weight_bits=3))
    recipe = Recipe(passes=(STATIC, RepairWeightsOptions()), layers=rules)
    plan = make_plan(_chain(), recipe, predict)
    assert [str(plan.after[name]) for name in NAMES] == [
        "float32",
        "uint8 x 3-bit by channel",
        "uint8 x 8-bit by channel",
    ]
    assert _left(plan) == []
    said = {d.site: d.reason for d in plan.decisions if not d.applied}
    assert said["one"] == 'the recipe leaves it alone (role = "first")'


def test_the_module_stays_as_it_was() -> None:
    mod = _chain()
    predict = _predict(dict.fromkeys(NAMES, 100.0), dict.fromkeys(NAMES, 40.0), 10.0)
    make_plan(mod, Recipe(passes=(STATIC,)), predict)
    tvm.ir.assert_structural_equal(mod, _chain(), map_free_vars=True)
