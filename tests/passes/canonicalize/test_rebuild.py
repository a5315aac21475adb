"""Mirror of passes/canonicalize/rebuild.py."""

from __future__ import annotations

from collections.abc import Callable

import tvm
from tvm import relax

from tvmopt import ir
from tvmopt.passes.canonicalize.rebuild import Rebuild, Rule, rebuild_main

Build = Callable[..., tvm.IRModule]


def _keep(_graph: Rebuild) -> Rule:
    return lambda _var, value: value


def _chain(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
    y = bb.emit(relax.op.nn.relu(x), "first")
    z = bb.emit(relax.op.add(y, x), "second")
    bb.emit(relax.op.exp(z), "dead")
    return relax.Tuple([z, y])


def test_keeping_every_value_gives_the_same_module_without_dead_bindings(build: Build) -> None:
    def alive(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        y = bb.emit(relax.op.nn.relu(x), "first")
        return relax.Tuple([bb.emit(relax.op.add(y, x), "second"), y])

    after = rebuild_main(build(_chain, (2, 3)), _keep)

    tvm.ir.assert_structural_equal(after, build(alive, (2, 3)))
    assert [var.name for var, _ in ir.bindings(after["main"])] == ["first", "second", "result"]


def test_input_module_is_not_changed(build: Build) -> None:
    before = build(_chain, (2, 3))

    def negate(graph: Rebuild) -> Rule:
        return lambda var, value: (
            relax.op.negative(graph.emit(value, f"{var.name}_positive"))
            if (isinstance(value, relax.Call))
            else value
        )

    after = rebuild_main(before, negate)

    tvm.ir.assert_structural_equal(before, build(_chain, (2, 3)))
    assert sum(ir.is_call_to(c, "relax.negative") for c in ir.calls(after)) == 2


def test_aliases_hand_their_readers_over(build: Build) -> None:
    def body(bb: relax.BlockBuilder, x: relax.Expr) -> relax.Expr:
        y = bb.emit(relax.op.nn.relu(x), "y")
        z = bb.emit(relax.op.abs(y), "z")
        return relax.Tuple([bb.emit(relax.op.exp(z)), bb.emit(relax.op.sin(z))])

    seen: dict[str, bool] = {}

    def drop_z(graph: Rebuild) -> Rule:
        def rule(var: relax.Var, value: relax.Expr) -> relax.Expr:
            if var.name == "z":
                seen["before"] = graph.read_once(value.args[0])
                return value.args[0]
            if ir.is_call_to(value, "relax.exp"):
                seen["after"] = graph.read_once(value.args[0])
            return value

        return rule

    rebuild_main(build(body, (4,)), drop_z)

    assert seen == {"before": True, "after": False}


def test_a_function_that_returns_its_input_stays(build: Build) -> None:
    mod = build(lambda _bb, x: x, (2, 2))
    tvm.ir.assert_structural_equal(rebuild_main(mod, _keep), mod)


def test_control_flow_is_left_alone() -> None:
    builder = relax.BlockBuilder()
    condition = relax.Var("c", relax.TensorType((), "bool"))
    x = relax.Var("x", relax.TensorType((2,), "float32"))
    with builder.function("main", [condition, x]):
        branch = relax.SeqExpr([], x)
        builder.emit_func_output(builder.emit(relax.If(condition, branch, branch)))
    mod = builder.finalize()
    assert rebuild_main(mod, _keep) is mod


def test_other_functions_are_kept(build: Build) -> None:
    mod = build(_chain, (2, 3))
    helper = build(_chain, (4, 5))["main"].without_attr("global_symbol")
    mod["helper"] = helper
    after = rebuild_main(mod, _keep)
    assert after["helper"].same_as(mod["helper"])
