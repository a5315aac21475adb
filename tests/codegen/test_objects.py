"""Kernels become symbols: equal ones one, in an order and with names that only depend on names."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import tvm
from tvm.script import tirx as T  # noqa: N812 - TVMScript is written so

from tvmopt import codegen
from tvmopt.codegen import objects
from tvmopt.errors import UnsupportedError
from tvmopt.targets.description import CpuTarget


@T.prim_func(s_tir=True)
def packed(a: T.Buffer((4,), "float32"), b: T.Buffer((4,), "float32")):  # noqa: ANN201
    T.evaluate(T.call_packed("some.global.function", 1))
    for i in range(4):
        b[i] = a[i]


def module(**functions: tvm.tirx.PrimFunc) -> tvm.IRModule:
    return tvm.IRModule(dict(functions))


def test_equal_functions_are_compiled_once(make: SimpleNamespace) -> None:
    a = make.elementwise(lambda x: x + 1, (4,), kernel="one name", macs=4)
    b = make.elementwise(lambda x: x + 1, (4,), kernel="another name")
    c = make.elementwise(lambda x: x + 2, (4,))
    symbols = objects.name_kernels(module(a=a, b=b, c=c), ["a", "b", "c"], frozenset(), "m")
    assert symbols.names == ("m_kernel_a", "m_kernel_a", "m_kernel_c")
    assert sorted(symbols.functions) == ["m_kernel_a", "m_kernel_c"]


def test_names_that_no_assembler_takes_are_spelled_otherwise(make: SimpleNamespace) -> None:
    a = make.elementwise(lambda x: x + 1, (4,))
    b = make.elementwise(lambda x: x + 2, (4,))
    mod = module(**{"a.b": a, "a b": b})
    symbols = objects.name_kernels(mod, ["a.b", "a b"], frozenset(), "m")
    assert symbols.names == ("m_kernel_a_b", "m_kernel_a_b__1")


def test_an_aliased_function_loses_its_promise_that_nothing_aliases(make: SimpleNamespace) -> None:
    func = make.elementwise(lambda x: x + 1, (4,)).with_attr("tirx.noalias", True)
    for aliased, want in ((frozenset(), True), (frozenset({"a"}), False)):
        symbols = objects.name_kernels(module(a=func), ["a"], aliased, "m")
        assert ("tirx.noalias" in symbols.functions["m_kernel_a"].attrs) == want


def test_kernels_that_need_tvm_at_run_time_are_refused(
    make: SimpleNamespace, target: CpuTarget
) -> None:
    builder = make.Builder(x=(4,))
    mod = builder.module(lambda x: builder.call(packed, [x], (4,)))
    with pytest.raises(UnsupportedError, match=r"these need .*__TVMFFIFunctionCall"):
        codegen.build(mod, target, codegen.BuildMeta())
