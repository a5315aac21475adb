"""The integer kernels between products give the same bits on Arm as on this machine."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tvm
from tvm import relax

from tvmopt import codegen, forms
from tvmopt.forms import Affine
from tvmopt.targets import get

op = relax.op
Emit = Callable[..., relax.Var]
Execute = Callable[..., tuple[list[np.ndarray], list[str]]]
SHAPE = (1, 9, 10, 24)
RNG = np.random.default_rng(11)
COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
ROOT = Path("/usr/aarch64-linux-gnu")


def affine(scale: float | np.ndarray, zero: int, dtype: str = "uint8") -> Affine:
    return Affine(
        scale=np.asarray(scale, np.float32), zero_point=np.asarray(zero, np.int32), dtype=dtype
    )


IN, OTHER, OUT = affine(0.0231, 119), affine(0.0193, 77), affine(0.0412, 8)


def network(kit: SimpleNamespace) -> tvm.IRModule:
    """Return a depthwise convolution, a sum, a mean, a gate, a table and a maximum."""
    weight = relax.const(RNG.integers(-127, 128, (24, 3, 3, 1)).astype(np.int8))
    filters = affine(RNG.uniform(1e-3, 9e-3, 24), 0, "int8")

    def body(emit: Emit, x: relax.Var, r: relax.Var) -> tuple[relax.Expr, ...]:
        def real(q: relax.Expr, how: Affine = OUT) -> relax.Expr:
            return emit(forms.dequantize(q, how))

        def stored(value: relax.Expr) -> relax.Expr:
            return emit(forms.quantize(emit(value), OUT))

        layouts = {"data_layout": "NHWC", "kernel_layout": "OHWI", "groups": 24}
        w = emit(forms.dequantize(weight, filters))
        convolved = stored(op.nn.conv2d(real(x, IN), w, padding=(1, 1), **layouts))
        total = stored(op.add(real(convolved), real(r, OTHER)))
        mean = stored(op.mean(real(total), [1, 2], keepdims=True))
        gated = stored(op.multiply(real(total), real(mean)))
        table = stored(op.sigmoid(real(gated)))
        largest = emit(op.nn.max_pool2d(table, (2, 2), (2, 2), layout="NHWC"))
        return convolved, total, mean, gated, largest

    return kit.module(body, SHAPE, SHAPE, dtype="uint8")


def test_the_same_bits(kit: SimpleNamespace, execute: Execute, tmp_path: Path) -> None:
    mod = network(kit)
    inputs = [RNG.integers(0, 256, SHAPE).astype(np.uint8) for _ in range(2)]
    expected, names = execute(mod, *inputs)
    assert len(names) == 6
    target = get("cortex-a76-pi5")
    lowered, _ = kit.lowered(mod, target=target)
    if shutil.which(COMPILER) is None:
        pytest.skip(f"lowered, but not linked: {COMPILER} is not installed")
    folder = tmp_path / "arm"
    folder.mkdir()
    codegen.build(lowered, target, codegen.BuildMeta()).save(folder / "model.so")
    if shutil.which(EMULATOR) is None or not ROOT.is_dir():
        pytest.skip(f"built, but not run: {EMULATOR} or its system root is not installed")
    program = tmp_path / "run_model"
    driver = Path(__file__).with_name("run_model.c")
    link = [f"-I{folder}", f"-L{folder}", "-l:model.so", f"-Wl,-rpath,{folder}"]
    subprocess.run([COMPILER, "-std=c11", "-o", program, driver, *link], check=True)
    done = subprocess.run(
        [EMULATOR, "-cpu", "max", "-L", ROOT, program],
        input=b"".join(x.tobytes() for x in inputs),
        capture_output=True,
        check=True,
    )
    got = np.frombuffer(done.stdout, np.uint8)
    assert np.array_equal(got, np.concatenate([y.ravel() for y in expected]))
