"""The form of what schedule_rest emits, and what it leaves alone."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax, tirx

from tvmopt.schedule.rest import schedule_rest
from tvmopt.targets import get

R = relax.op


def _zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def _gelu(x: relax.Expr) -> relax.Expr:
    half, one, root = (relax.const(np.float32(v)) for v in (0.5, 1.0, 0.70710678))
    return R.multiply(R.multiply(x, half), R.add(one, R.erf(R.multiply(x, root))))


def _text(func: tirx.PrimFunc) -> str:
    return func.script()


def test_a_generated_kernel_is_left_alone(rest: Any) -> None:
    mod = rest.fused(R.exp, _zeros(3, 4))
    (var,) = (v for v, f in mod.functions_items() if isinstance(f, tirx.PrimFunc))
    mod[var] = mod[var].with_attr("tvmopt.kernel", "f32_mine")
    after = schedule_rest(mod, rest.target)
    tvm.ir.assert_structural_equal(after, mod)


def test_the_module_given_stays_as_it_was(rest: Any) -> None:
    mod, again = (rest.fused(_gelu, _zeros(3, 4)) for _ in range(2))
    schedule_rest(mod, rest.target)
    tvm.ir.assert_structural_equal(mod, again)


@pytest.mark.parametrize(
    ("build", "dtype", "name"),
    [
        (_gelu, "float32", "f32_multiply_multiply_erf_add_multiply"),
        (lambda x: R.add(x, x), "float16", "f16_add"),
        (lambda x: R.multiply(x, x), "int8", "s8_multiply"),
        (lambda x: R.astype(x, "bool"), "int32", "b8_cast"),
    ],
)
def test_the_kernel_s_name_says_type_and_operators(
    rest: Any, build: Any, dtype: str, name: str
) -> None:
    (func,) = rest.funcs(build, _zeros(3, 4).astype(dtype))
    assert func.attrs["tvmopt.kernel"] == name
    assert "global_symbol" not in func.attrs


def test_equal_functions_are_scheduled_once(rest: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    from tvmopt.schedule import rest as module

    real = module.schedule  # counted here
    monkeypatch.setattr(module, "schedule", lambda f, t: seen.append(f) or real(f, t))
    mod = rest.fused(R.exp, _zeros(3, 4))
    (func,) = (f for _, f in mod.functions_items() if isinstance(f, tirx.PrimFunc))
    mod["other"] = func
    schedule_rest(mod, rest.target)
    assert len(seen) == 1


INPLACE = {
    "chain": (_gelu, [(5, 8)], [0]),
    "either": (R.add, [(5, 8), (5, 8)], [0, 1]),
    "broadcast": (R.add, [(5, 8), (8,)], [0]),
    "transposed": (lambda x, y: R.add(R.permute_dims(x, [1, 0]), y), [(8, 8), (8, 8)], [1]),
    "flipped": (lambda x: R.add(x, R.flip(x, 0)), [(8, 8)], None),
    "reduced": (lambda x: R.nn.softmax(x), [(8, 8)], None),
    "longer": (lambda x: R.concat([x, x], 0), [(8, 8)], None),
}


@pytest.mark.parametrize("case", INPLACE)
def test_in_place_only_where_each_element_needs_itself_alone(rest: Any, case: str) -> None:
    build, shapes, wanted = INPLACE[case]
    (func,) = rest.funcs(build, *(_zeros(*shape) for shape in shapes))
    found = func.attrs.get("tvmopt.inplace")
    assert (None if found is None else list(found)) == wanted


@pytest.mark.parametrize("case", [case for case, (*_, wanted) in INPLACE.items() if wanted])
def test_in_place_gives_the_same_values(rest: Any, case: str) -> None:
    build, shapes, wanted = INPLACE[case]
    # Odd sizes, so that a remainder loop is there too.
    shapes = [tuple(side + 5 if side == 8 else side for side in shape) for shape in shapes]
    inputs = [
        np.random.default_rng(i).standard_normal(s).astype(np.float32) for i, s in enumerate(shapes)
    ]
    (func,) = rest.funcs(build, *inputs)
    named = func.with_attr("global_symbol", "main")
    built = tvm.tirx.build(named, target=rest.target.to_tvm())
    separate = rest.run(build, *inputs)
    for number in wanted:
        tensors = [tvm.runtime.tensor(x) for x in inputs]
        built["main"](*tensors, tensors[number])
        np.testing.assert_array_equal(tensors[number].numpy(), separate)


SERIAL = {
    "small": (_gelu, [(16, 64)]),
    "one row": (lambda x: R.nn.softmax(x), [(1, 128)]),
}
PARALLEL = {
    "rows": (lambda x: R.nn.softmax(x), [(12, 64, 128)]),
    "tiles": (lambda x: R.nn.softmax(x, 1), [(1, 64, 70, 70)]),
    "outer": (R.nn.relu, [(67, 1, 3001)]),
    "chunks": (_gelu, [(1, 100_003)]),
    "long rows": (lambda x, y: R.add(_gelu(x), y), [(3, 50_001), (3, 1)]),
    "transpose": (lambda x: R.permute_dims(x, [0, 2, 1]), [(1, 517, 403)]),
    "reduction": (lambda x: R.sum(x, [1]), [(50, 77, 129)]),
}


@pytest.mark.parametrize("case", SERIAL)
def test_small_work_stays_on_one_thread(rest: Any, case: str) -> None:
    build, shapes = SERIAL[case]
    for func in rest.funcs(build, *(_zeros(*shape) for shape in shapes)):
        assert "T.parallel" not in _text(func)


@pytest.mark.parametrize("case", PARALLEL)
def test_large_work_is_shared_out_and_gives_the_same_values(rest: Any, case: str) -> None:
    build, shapes = PARALLEL[case]
    inputs = [np.random.default_rng(0).standard_normal(s).astype(np.float32) for s in shapes]
    (func,) = rest.funcs(build, *inputs)
    assert _text(func).count("T.parallel") >= 1
    alone = dataclasses.replace(rest, target=dataclasses.replace(rest.target, cores=1))
    assert "T.parallel" not in _text(alone.funcs(build, *inputs)[0])
    np.testing.assert_array_equal(rest.run(build, *inputs), alone.run(build, *inputs))


def test_softmax_takes_each_exponential_once_and_keeps_it_in_the_row(rest: Any) -> None:
    (func,) = rest.funcs(lambda x: R.nn.softmax(x), _zeros(12, 128, 128))
    text = _text(func)
    assert text.count("T.floor") == 1  # one exponential
    assert func.attrs["tvmopt.scratch_bytes"] == 4 * (128 + 2)  # it, the maximum and the sum


def test_layer_norm_is_one_pass_over_rows(rest: Any) -> None:
    x, g = _zeros(128, 384), _zeros(384)
    (func,) = rest.funcs(lambda a, s, t: R.nn.layer_norm(a, s, t, [-1]), x, g, g)
    assert _text(func).count("T.parallel") == 1
    assert func.attrs["tvmopt.scratch_bytes"] == 4 * 3  # two sums and the mean


def test_padding_leaves_no_condition_in_the_loops(rest: Any) -> None:
    build = lambda x: R.nn.relu(R.nn.pad(x, [0, 0, 1, 1, 2, 2, 0, 0]))  # noqa: E731
    (func,) = rest.funcs(build, _zeros(1, 9, 9, 8))
    assert "if_then_else" not in _text(func)


def test_a_concatenation_is_one_pass_without_conditions(rest: Any) -> None:
    build = lambda x, y: R.concat([R.exp(x), y], 3)  # noqa: E731
    (func,) = rest.funcs(build, _zeros(1, 9, 9, 8), _zeros(1, 9, 9, 5))
    assert "if_then_else" not in _text(func)
    assert "tvmopt.scratch_bytes" not in func.attrs


WIDE = {"x86-64-v2": "xmm", "x86-64-v3": "ymm", "x86-64-v4": "zmm", "cortex-a76-pi5": r"v\d+\.4s"}


@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize(
    "build",
    [_gelu, R.exp, lambda x: R.nn.softmax(x), lambda x: R.mean(x, [0]), lambda x: R.max(x, [1])],
    ids=["gelu", "exp", "softmax", "mean", "max"],
)
def test_loops_are_vectorized_and_call_nothing(rest: Any, name: str, build: Any) -> None:
    there = dataclasses.replace(rest, target=get(name))
    assembly = there.assembly(build, _zeros(64, 128))
    arithmetic = r"\b(v?(add|mul|max|fmadd\w*)ps|fadd|fmul|fmla|fmax\w*|fcmgt|bif|bit)\b.*"
    assert re.search(arithmetic + WIDE[name], assembly)
    assert not re.search(r"(call|bl)\w*\s+\S*(exp|erf|log|tanh|sqrt|floor)f?\b", assembly)


def test_small_buffers_lie_on_the_stack(rest: Any) -> None:
    assert "AllocWorkspace" not in rest.assembly(lambda x: R.nn.softmax(x), _zeros(64, 128))
