"""The C examples build without a warning and find the class that the model finds."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from tvm import relax, te

from tvmopt import codegen
from tvmopt.targets import resolve

EXAMPLE = Path(__file__).parents[2] / "examples" / "c"


def build(folder: Path, name: str) -> Path:
    """Return an artefact that scores class i as w[i] . x; TVM's scalar schedule is enough."""
    weight = np.random.default_rng(5).standard_normal((10, 16)).astype("float32")
    x, w = te.placeholder((16,), name="x"), te.placeholder((10, 16), name="w")
    k = te.reduce_axis((0, 16), "k")
    scores = te.compute((10,), lambda i: te.sum(w[i, k] * x[k], axis=k), name="scores")
    block = relax.BlockBuilder()
    given = relax.Var("x", relax.TensorType((16,), "float32"))
    with block.function("main", [given]):
        with block.dataflow():
            var = block.add_func(te.create_prim_func([x, w, scores]), "scores")
            call = relax.call_tir(
                var, [given, relax.const(weight)], relax.TensorType((10,), "float32")
            )
            out = block.emit_output(call)
        block.emit_func_output(out)
    artifact = codegen.build(block.get(), resolve("native"), codegen.BuildMeta(name=name))
    np.save(folder / "weight.npy", weight)
    return artifact.save(folder / "scores.so")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("example")
    path = build(folder, "scorer")
    command = ["make", "-s", f"MODEL={path}", "NAME=scorer", f"OUT={folder}"]
    flags = ["CFLAGS=-O2 -Wall -Wextra -Werror -Wpedantic"]
    done = subprocess.run(
        [*command, *flags], cwd=EXAMPLE, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


def programs(folder: Path) -> list[list[str | Path]]:
    return [[folder / "linked"], [folder / "dlopened", folder / "scores.so", "scorer"]]


@pytest.mark.parametrize("seed", range(5))
def test_both_print_the_top_class(seed: int, built: Path) -> None:
    x = np.random.default_rng(seed).standard_normal(16).astype("float32")
    x.tofile(built / "x.bin")
    scores = np.load(built / "weight.npy").astype("float64") @ x
    for program in programs(built):
        done = subprocess.run(
            [*program, built / "x.bin"], capture_output=True, text=True, check=True
        )
        label, value = done.stdout.removeprefix("class ").split(", score ")
        assert int(label) == scores.argmax()
        # 16 products and additions, rounded once each, of terms below 16, and 6 digits printed.
        assert abs(float(value) - scores.max()) < 32 * 16 * 2**-24 + 1e-6


@pytest.mark.parametrize(
    ("size", "message"),
    [(63, "must hold 64 bytes, has fewer"), (65, "must hold 64 bytes, has more")],
)
def test_inputs_of_another_size_are_refused(size: int, message: str, built: Path) -> None:
    path = built / "odd.bin"
    path.write_bytes(bytes(size))
    for program in programs(built):
        done = subprocess.run([*program, path], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr == f"{path}: {message}\n"


def test_a_wrong_name_is_reported(built: Path) -> None:
    done = subprocess.run(
        [built / "dlopened", built / "scores.so", "other", built / "x.bin"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "undefined symbol: other_create" in done.stderr
