"""Mirror of tvmopt/lowering/sites.py."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import tvm
from tvm import relax, te

from tvmopt import ir
from tvmopt.lowering import lower
from tvmopt.passes.canonicalize import canonicalize_passes
from tvmopt.report import Report

op = relax.op
Check = Callable[..., list[str]]
Emit = Callable[..., relax.Var]


def small_net(kit: SimpleNamespace, planar: bool = True) -> tvm.IRModule:
    """Return a net of each kind: stem, depthwise, residual, pool, mean, linear layer, softmax."""
    weight = kit.const(16, 5, scale=0.3)

    def body(emit: Emit, x: relax.Var) -> relax.Expr:
        if planar:
            x = emit(op.permute_dims(x, [0, 2, 3, 1]), "nhwc")
        y = emit(kit.conv(x, 16, strides=(2, 2)), "stem")
        y = emit(op.nn.relu(emit(op.add(y, kit.bias(16)))))
        y = emit(op.nn.max_pool2d(y, (2, 2), (2, 2), layout="NHWC"), "pool")
        z = emit(op.nn.silu(emit(kit.conv(y, 16, groups=16), "depthwise")))
        z = emit(op.add(emit(op.add(emit(kit.conv(z, 16, 1), "project"), kit.bias(16))), y))
        z = emit(op.mean(z, [1, 2], keepdims=True), "gap")
        z = emit(op.reshape(z, (1, 16)))
        return emit(op.nn.softmax(emit(op.matmul(z, weight), "classifier")), "softmax")

    return kit.module(body, (1, 3, 16, 12) if planar else (1, 16, 12, 3))


def test_a_small_net_is_one_kernel_a_site(kit: SimpleNamespace, check: Check) -> None:
    kernels = check(small_net(kit))
    kinds = [name.removeprefix("f32_").split("_")[0] for name in kernels[:-1]]
    assert kinds == ["conv", "maxpool", "dwconv", "gemm", "global", "gemm"]
    assert "softmax" in kernels[-1]


def test_the_printed_form(kit: SimpleNamespace, golden: Callable[[str], None]) -> None:
    result, _ = kit.lowered(small_net(kit))
    golden(result["main"].script(show_meta=False) + "\n")


def test_every_function_is_a_kernel_with_a_name(kit: SimpleNamespace) -> None:
    result, _ = kit.lowered(small_net(kit))
    for name, func in result.functions_items():
        if name.name_hint != "main":
            assert isinstance(func, tvm.tirx.PrimFunc)
            assert "tvmopt.kernel" in func.attrs


def test_lowering_leaves_its_input_as_it_was(kit: SimpleNamespace) -> None:
    mod = small_net(kit)
    kit.lowered(mod)
    tvm.ir.assert_structural_equal(mod, small_net(kit), map_free_vars=True)


def test_lowering_twice_gives_the_same(kit: SimpleNamespace) -> None:
    (first, names), (second, again) = kit.lowered(small_net(kit)), kit.lowered(small_net(kit))
    assert names == again
    tvm.ir.assert_structural_equal(first, second, map_free_vars=True)


def test_layers_keep_their_names_to_the_last(kit: SimpleNamespace) -> None:
    result, _ = kit.lowered(small_net(kit))
    layers = [
        var.name
        for var, value in ir.bindings(result["main"])
        if ir.is_call_to(value, "relax.call_tir")
    ]
    names = ["stem", "pool", "depthwise", "project", "gap", "classifier", "softmax"]
    assert layers == names


def test_the_report_has_a_line_for_each_site(kit: SimpleNamespace) -> None:
    report = Report()
    kit.lowered(small_net(kit), report)
    assert [d.site for d in report.decisions] == [
        "conv 3x3/2x2 1x16x12x3 -> 16",
        "maxpool (1, 8, 6, 16)",
        "depthwise 3x3/1x1 1x4x3x16 -> 16",
        "conv 1x1/1x1 1x4x3x16 -> 16",
        "global mean (1, 4, 3, 16)",
        "linear 1x16 @ 16x5",
    ]
    assert all(d.pass_name == "Lower" and d.applied for d in report.decisions)


def test_a_function_that_the_model_calls_is_kept(kit: SimpleNamespace) -> None:
    # Some of TVM's importers emit calls of PrimFuncs of their own.
    x = te.placeholder((1, 4, 4, 8), name="x")
    twice = te.create_prim_func([x, te.compute(x.shape, lambda *at: x[at] * 2, name="y")])
    block = relax.BlockBuilder()
    given = relax.Var("x", relax.TensorType((1, 4, 4, 6), "float32"))
    with block.function("main", [given]):
        with block.dataflow():
            y = block.emit(kit.conv(given, 8, 1))
            var = block.add_func(twice.with_attr("global_symbol", "twice"), "twice")
            call = relax.call_tir(var, [y], relax.TensorType((1, 4, 4, 8), "float32"))
            out = block.emit_output(call)
        block.emit_func_output(out)
    result, kernels = kit.lowered(block.get())
    assert len(kernels) == 2
    assert "twice" in [name.name_hint for name in result.get_global_vars()]


@pytest.mark.parametrize(
    "body",
    [
        lambda _, x: x,
        lambda emit, x: (x, emit(op.nn.relu(x))),
        lambda emit, x: (emit(op.nn.relu(x)),) * 2,
        lambda emit, x: emit(op.reshape(emit(op.nn.relu(x)), (8, 6))),
        lambda emit, x: (emit(op.nn.relu(x)), relax.const(np.ones(3, np.float32))),
    ],
    ids=["input", "input and value", "a value twice", "view", "constant"],
)
def test_any_kind_of_output(kit: SimpleNamespace, check: Check, body: Callable) -> None:
    assert len(check(kit.module(body, (1, 2, 4, 6)))) <= 1


def test_what_no_generator_claims_is_fused_and_scheduled(
    kit: SimpleNamespace, check: Check
) -> None:
    def body(emit: Emit, x: relax.Var) -> relax.Expr:
        y = emit(op.multiply(emit(op.sigmoid(x)), x))
        return emit(op.nn.softmax(emit(op.add(y, kit.const(7))), 1))

    kernels = check(kit.module(body, (5, 7)))
    assert len(kernels) <= 2
    assert all("__" not in name for name in kernels)  # no generator's name


def test_the_pipeline_hands_over_what_lowering_expects(kit: SimpleNamespace) -> None:
    # An NCHW convolution with a bias: canonical form first, then one kernel and a way back.
    weight, bias = kit.const(8, 3, 3, 3), kit.const(1, 8, 1, 1)

    def body(emit: Emit, x: relax.Var) -> relax.Expr:
        return op.nn.relu(emit(op.add(emit(op.nn.conv2d(x, weight, padding=(1, 1))), bias)))

    mod, report = kit.module(body, (1, 3, 8, 8)), Report()
    for step in canonicalize_passes(report):
        mod = step(mod)
    result = lower(mod, kit.AVX2, report)
    calls = [
        value.args[0].name_hint
        for _, value in ir.bindings(result["main"])
        if ir.is_call_to(value, "relax.call_tir")
    ]
    assert len(calls) == 2
    assert "conv_add_max" in calls[0]
