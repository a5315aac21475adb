"""Artefacts compute what NumPy computes, whatever the graph's inputs and outputs look like."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import codegen, runtime
from tvmopt.errors import ArtifactError, OptionError, TargetError, UnsupportedError
from tvmopt.targets.description import CpuTarget

Compiled = Callable[..., Path]


def arange(shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    return np.arange(np.prod(shape), dtype=dtype).reshape(shape)


def test_small_net_agrees_with_numpy(make: SimpleNamespace, compiled: Compiled) -> None:
    mod, reference = make.conv_net()
    x = np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype("float32")
    with runtime.open(compiled(mod)) as net:
        got = net(x)
    # Logits are sums of 27 and 256 products, in all below 300 roundings of 2**-24 relative to the
    # sum of magnitudes, which is below 20 here; softmax's outputs move at most by that much.
    np.testing.assert_allclose(got, reference(x), rtol=0, atol=300 * 2**-24 * 20)


@pytest.mark.parametrize(
    "dtype", ["float32", "float16", "int8", "int16", "int32", "int64", "uint8", "bool"]
)
def test_every_dtype_passes_through(dtype: str, make: SimpleNamespace, compiled: Compiled) -> None:
    builder = make.Builder(x=((3, 5), dtype))
    func = make.elementwise(lambda a: a, (3, 5), dtype=dtype)
    mod = builder.module(lambda x: builder.call(func, [x], (3, 5), dtype))
    x = (arange((3, 5)) % 2).astype(dtype)
    with runtime.open(compiled(mod)) as net:
        y = net(x)
        assert (net.inputs[0].dtype, net.outputs[0].dtype) == (dtype, dtype)
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y, x)


def test_outputs_may_be_anything(make: SimpleNamespace, compiled: Compiled) -> None:
    """A result, a view of it, an input, a constant, and the same value twice."""
    double = make.elementwise(lambda a: a * 2, (2, 3))
    constant = relax.const(arange((4,)) + 7)
    builder = make.Builder(x=(2, 3))

    def body(x: relax.Var) -> tuple[relax.Expr, ...]:
        y = builder.call(double, [x], (2, 3))
        z = builder.call(double, [y], (2, 3))
        return y, builder.reshape(y, (6,)), z, z, x, constant, builder.reshape(x, (3, 2))

    x = arange((2, 3))
    with runtime.open(compiled(builder.module(body))) as net:
        got = list(net(x).values())
    want = [2 * x, (2 * x).reshape(6), 4 * x, 4 * x, x, arange((4,)) + 7, x.reshape(3, 2)]
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_model_may_have_no_kernel(make: SimpleNamespace, compiled: Compiled) -> None:
    builder = make.Builder(x=(5,))
    path = compiled(builder.module(lambda x: builder.reshape(x, (5, 1))))
    with runtime.open(path) as net:
        np.testing.assert_array_equal(net(arange((5,))), arange((5, 1)))
        assert [step.kernel for step in net.steps] == ["copy"]


def test_scalars_and_empty_tensors(make: SimpleNamespace, compiled: Compiled) -> None:
    builder = make.Builder(x=(), e=(0, 3))
    func = make.elementwise(lambda a, b: a + b, (), 2)

    def body(x: relax.Var, e: relax.Var) -> tuple[relax.Expr, ...]:
        return builder.call(func, [x, relax.const(np.float32(4))], ()), e

    with runtime.open(compiled(builder.module(body))) as net:
        got = net({"x": np.float32(3), "e": np.empty((0, 3), "float32")})
    assert got["output_0"] == 7
    assert got["output_1"].shape == (0, 3)


def test_kernels_with_several_outputs(make: SimpleNamespace, compiled: Compiled) -> None:
    a = tvm.te.placeholder((6,), name="a")
    both = tvm.te.compute((6,), lambda i: (a[i] + 1, a[i] * 3), name="both")
    func = tvm.te.create_prim_func([a, *both])
    add = make.elementwise(lambda p, q: p + q, (6,), 2)
    builder = make.Builder(x=(6,))

    def body(x: relax.Var) -> relax.Expr:
        pair = builder.call(func, [x], [(6,), (6,)])
        first = builder.block.emit(relax.TupleGetItem(pair, 0))
        return builder.call(add, [first, relax.TupleGetItem(pair, 1)], (6,))

    x = arange((6,))
    with runtime.open(compiled(builder.module(body))) as net:
        np.testing.assert_array_equal(net(x), (x + 1) + 3 * x)


def test_inplace_kernels_compute_the_same(make: SimpleNamespace, compiled: Compiled) -> None:
    shape = (7, 33)
    func = make.elementwise(lambda a, b: a * 2 + b, shape, 2, inplace=[0])
    plain = make.elementwise(lambda a, b: a * 2 + b, shape, 2)
    arenas = {}
    x = np.random.default_rng(2).standard_normal(shape).astype("float32")
    for name, kernel in {"over": func, "apart": plain}.items():
        builder = make.Builder(x=shape)

        def body(given: relax.Var, builder: object = builder, kernel: object = kernel) -> relax.Var:
            y = given
            for _ in range(5):
                y = builder.call(kernel, [y, given], shape)
            return y

        with runtime.open(compiled(builder.module(body), name)) as net:
            got, arenas[name] = net(x), net.manifest["arena_bytes"]
        want = x
        for _ in range(5):  # exact: doubling rounds nothing, and there is one addition a step
            want = want * 2 + x
        np.testing.assert_allclose(got, want, rtol=5 * 2**-23)
    assert arenas == {"over": 960, "apart": 1920}


def test_manifest_says_what_was_built(
    make: SimpleNamespace, compiled: Compiled, target: CpuTarget
) -> None:
    func = make.elementwise(
        lambda a: a + 1, (4, 4), parallel=True, kernel="f32_add_4x4__avx2", macs=16
    )
    builder = make.Builder(x=(4, 4))
    mod = builder.module(lambda x: builder.call(func, [x], (4, 4), name="plus"))
    path = compiled(
        mod,
        "adder",
        input_names=("in:0",),
        output_names=('out "é"',),
        model_sha256="ab" * 32,
        options={"level": 2},
    )
    manifest = runtime.read_manifest(path)
    with runtime.open(path) as net:
        assert net.manifest == manifest
        assert net.inputs[0].name == "in:0"
        assert list(net({"in:0": arange((4, 4))})[0]) == [1, 2, 3, 4]
    assert manifest["name"] == "adder"
    assert manifest["inputs"] == [{"name": "in:0", "dtype": "float32", "shape": [4, 4]}]
    assert manifest["outputs"] == [{"name": 'out "é"', "dtype": "float32", "shape": [4, 4]}]
    assert manifest["layers"] == [
        {
            "layer": "plus",
            "kernel": "f32_add_4x4__avx2",
            "macs": 16,
            "cycles": None,
            "parallel": True,
        }
    ]
    assert manifest["model_sha256"] == "ab" * 32
    assert manifest["options"] == {"level": 2}
    assert manifest["recipe"] is None
    assert manifest["target"]["triple"] == target.triple
    assert manifest["required_features"] == list(target.required)
    assert manifest["glibc"].startswith("2.")
    assert manifest["versions"]["apache-tvm"] == "0.27.0.post1"
    assert str(path.parent) not in json.dumps(manifest)


_REBUILD = """
import sys, pathlib, json
sys.path.insert(0, {folder!r})
import conftest
from tvmopt import codegen
from tvmopt.targets import resolve
mod, _ = conftest.conv_net()
meta = codegen.BuildMeta(name="model", options={{"b": 1, "a": 2}})
artifact = codegen.build(mod, resolve("native"), meta)
artifact.save(sys.argv[1])
"""


def test_same_bytes_from_other_folders_and_hash_seeds(tmp_path: Path) -> None:
    script = _REBUILD.format(folder=str(Path(__file__).parent))
    found = []
    for seed in ("0", "1", "4711"):
        folder = tmp_path / f"folder-{seed}"
        (folder / "tmp").mkdir(parents=True)
        subprocess.run(
            [sys.executable, "-c", script, str(folder / "model.so")],
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "PYTHONHASHSEED": seed, "TMPDIR": str(folder / "tmp")},
            check=True,
        )
        found.append([(folder / name).read_bytes() for name in ("model.so", "model.h")])
        assert [path.name for path in sorted(folder.iterdir())] == ["model.h", "model.so", "tmp"]
        assert not list((folder / "tmp").iterdir())
        assert str(tmp_path).encode() not in found[-1][0]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("name", ["", "2x", "a-b", "a b", "é", "x;y", "_x"])
def test_name_must_be_an_identifier(name: str) -> None:
    with pytest.raises(OptionError, match="name must be a C identifier"):
        codegen.BuildMeta(name=name)


@pytest.mark.parametrize("names", [("a",), ("a", "a"), ("a", "b", "c")])
def test_names_must_fit(names: tuple[str, ...], make: SimpleNamespace, target: CpuTarget) -> None:
    builder = make.Builder(x=(2,), y=(2,))
    mod = builder.module(lambda x, _: x)
    with pytest.raises(OptionError, match="input_names must be 2 different names, got"):
        codegen.build(mod, target, codegen.BuildMeta(input_names=names))


def test_what_lowering_left_is_named(make: SimpleNamespace, target: CpuTarget) -> None:
    builder = make.Builder(x=(2, 2))
    mod = builder.module(lambda x: builder.block.emit(relax.op.exp(x), name_hint="e"))
    with pytest.raises(UnsupportedError, match="binding 'e': lowering must leave call_tir"):
        codegen.build(mod, target, codegen.BuildMeta())


def test_a_kernel_that_reads_another_type_is_refused(
    make: SimpleNamespace, target: CpuTarget
) -> None:
    # Nothing checks a call_tir, and a kernel would take the bytes for what it was made for.
    whole = relax.const(np.ones((2, 2), np.int32))
    add = make.elementwise(lambda a, b: a + b, (2, 2), inputs=2)
    builder = make.Builder(x=(2, 2))
    mod = builder.module(lambda x: builder.call(add, [x, whole], (2, 2), name="add"))
    with pytest.raises(UnsupportedError, match=r"must be float32 \[2, 2\], got int32 \[2, 2\]"):
        codegen.build(mod, target, codegen.BuildMeta())


def test_open_dimensions_are_refused(make: SimpleNamespace, target: CpuTarget) -> None:
    n = tvm.tirx.Var("n", "int64")
    builder = make.Builder(x=(n, 2))
    with pytest.raises(UnsupportedError, match="input 'x': every shape must be known"):
        codegen.build(builder.module(lambda x: x), target, codegen.BuildMeta())


def test_features_that_no_artefact_checks_are_refused(
    make: SimpleNamespace, target: CpuTarget
) -> None:
    odd = dataclasses.replace(target, required=(*target.required, "3dnow"))
    mod, _ = make.conv_net()
    with pytest.raises(TargetError, match=r"that an artefact can check on .*, got '3dnow'"):
        codegen.build(mod, odd, codegen.BuildMeta())


@pytest.mark.isa("sse2")  # the features below are those of x86-64
def test_a_cpu_without_the_features_is_refused(
    make: SimpleNamespace, target: CpuTarget, tmp_path: Path
) -> None:
    flags = Path("/proc/cpuinfo").read_text().split()
    absent = next(
        (
            llvm
            for llvm, linux in {"amx-int8": "amx_int8", "avxvnni": "avx_vnni"}.items()
            if linux not in flags
        ),
        None,
    )
    if absent is None:
        pytest.skip("this CPU has every feature that the test knows")
    mod, _ = make.conv_net()
    needy = dataclasses.replace(target, required=(*target.required, absent))
    path = codegen.build(mod, needy, codegen.BuildMeta()).save(tmp_path / "model.so")
    with pytest.raises(ArtifactError, match=f"needs a CPU with {absent}, this one lacks it"):
        runtime.open(path)
