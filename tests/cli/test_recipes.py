"""Recipes on the command line: what is compiled, what is told, and every refusal."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tvmopt.runtime import read_manifest

Run = Callable[..., object]
Refused = Callable[..., str]

STATIC = """
keep = "all"
[[pass]]
name = "quantize-static"
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "r.toml"
    path.write_text(STATIC)
    return path


def test_a_recipe_is_applied_and_recorded(
    tvmopt: Run, small_onnx: Path, data: Path, recipe: Path, tmp_path: Path
) -> None:
    so = tmp_path / "m.so"
    ended = tvmopt("compile", small_onnx, "-o", so, "--recipe", recipe, "--calib", data)
    assert ended.code == 0, ended.err
    assert "recipe r: 1 of 1 layers compressed" in ended.out
    assert "uint8 x 8-bit by channel" in ended.out
    assert "20 samples" in ended.out
    manifest = read_manifest(so)
    assert manifest["recipe"]["name"] == "r"
    assert manifest["recipe"]["calibration"]["samples"] == 20
    assert [layer["kernel"][:3] for layer in manifest["layers"]][:2] != ["f32", "f32"]
    told = tvmopt("inspect", so)
    assert "recipe r: 1 of 1 layers compressed" in told.out
    assert "uint8 x 8-bit by channel" in told.out


def test_a_dry_run_tells_and_writes_nothing(
    tvmopt: Run, small_onnx: Path, recipe: Path, data: Path, tmp_path: Path
) -> None:
    before = sorted(tmp_path.iterdir())
    so = tmp_path / "m.so"
    dry = ("compile", small_onnx, "-o", so, "--recipe", recipe, "--dry-run")
    for arguments in (dry, (*dry, "--calib", data)):
        ended = tvmopt(*arguments)
        assert ended.code == 0, ended.err
        assert ended.out.startswith("dry run: nothing is written\n")
        for text in ("linear", "uint8 x 8-bit by channel", "x as fast", "no samples"):
            assert text in ended.out
    document = tvmopt(*dry, "--json").document
    assert document["dry_run"] is True
    assert document["recipe"]["predicted_cycles"][0] > 0
    assert [one["after"] for one in document["recipe"]["result"]] == ["uint8 x 8-bit by channel"]
    assert sorted(tmp_path.iterdir()) == before


def test_layers_left_alone_come_with_the_reason(
    tvmopt: Run, small_onnx: Path, recipe: Path, data: Path, tmp_path: Path
) -> None:
    recipe.write_text(f'{STATIC}\n[[layer]]\nmatch = "lin*"\nskip = true\n')
    so = tmp_path / "m.so"
    ended = tvmopt("compile", small_onnx, "-o", so, "--recipe", recipe, "--calib", data)
    assert ended.code == 0, ended.err
    assert "recipe r: 0 of 1 layers compressed" in ended.out
    assert 'the recipe leaves it alone (match = "lin*")' in ended.out


def test_a_recipe_without_samples_needs_none(tvmopt: Run, small_onnx: Path, tmp_path: Path) -> None:
    so = tmp_path / "m.so"
    document = tvmopt("compile", small_onnx, "-o", so, "--recipe", "fp16", "--json").document
    assert document["recipe"]["name"] == "fp16"
    assert document["recipe"]["calibration"] is None
    assert document["recipe"]["result"][0]["after"] == "float32 x float16"


@pytest.mark.parametrize("mode", [(), ("--dry-run",)])
def test_samples_that_do_not_fit(
    refused: Refused, small_onnx: Path, recipe: Path, tmp_path: Path, mode: tuple[str, ...]
) -> None:
    path = tmp_path / "calib.npz"
    cases = {
        "arrays must be named as the inputs 'x', got 'y'": {"y": np.zeros((20, 4), "f4")},
        "'x' must be float32, got float64": {"x": np.zeros((20, 4))},
        "'x' must have shape (samples, 4), got (20, 5)": {"x": np.zeros((20, 5), "f4")},
        "must hold at least 16 samples, got 8; add samples": {"x": np.zeros((8, 4), "f4")},
        "'x' must be finite, got inf in sample 3": {
            "x": np.where(np.arange(20)[:, None] == 3, np.inf, np.zeros((20, 4))).astype("f4")
        },
    }
    so = tmp_path / "m.so"
    command = ("compile", small_onnx, "-o", so, "--recipe", recipe, "--calib", path, *mode)
    for expected, arrays in cases.items():
        np.savez(path, **arrays)
        message = refused(*command)
        assert message.startswith(f"{path}: ")
        assert expected in message
    path.write_bytes(b"no zip")
    assert "must be an .npz file of plain arrays" in refused(*command)
    path.unlink()
    assert "must be a readable .npz file: No such file" in refused(*command)
    assert not so.exists()


def test_samples_are_asked_for_and_never_made_up(
    refused: Refused, small_onnx: Path, tmp_path: Path
) -> None:
    message = refused("compile", small_onnx, "-o", tmp_path / "m.so", "--recipe", "int8")
    assert message.startswith("recipe 'int8' must have calibration samples, of which ")
    assert "--calib calib.npz" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[layer]]\nmatch = "linaer*"\nskip = true', "'linaer*' fits none of 1; did you mean"),
        ("[[layer]]\nmatch = 4\nskip = true", "[[layer]] 1: 'match' must be a text, got 4"),
        ("weight_bits = 1", "weight_bits must be from 2 to 8, got 1"),
        ("weight_bit = 4", "unknown key 'weight_bit'; did you mean 'weight_bits'?"),
        ("weight_bits = =", "must be a recipe in TOML: Invalid value (at line 5"),
    ],
)
def test_a_recipe_that_cannot_be(
    refused: Refused, small_onnx: Path, data: Path, recipe: Path, text: str, message: str
) -> None:
    recipe.write_text(STATIC + text)
    so = recipe.with_name("m.so")
    for mode in ((), ("--dry-run",)):
        told = refused("compile", small_onnx, "-o", so, "--recipe", recipe, "--calib", data, *mode)
        assert message in told
        assert re.match(rf"({re.escape(str(recipe))}: |recipe 'r': )", told)
    assert not so.exists()


def test_a_recipe_that_is_not_there(refused: Refused, small_onnx: Path, tmp_path: Path) -> None:
    message = refused("compile", small_onnx, "--recipe", "int-8")
    assert "got 'int-8'; did you mean 'int8'?" in message
    message = refused("compile", small_onnx, "--recipe", tmp_path / "no.toml")
    assert message == f"{tmp_path}/no.toml: must be a readable recipe: No such file or directory"


def test_flags_that_need_a_recipe(refused: Refused, small_onnx: Path, data: Path) -> None:
    assert refused("compile", small_onnx, "--calib", data) == (
        "--calib must come with --recipe, which says what to do"
    )
    assert refused("compile", small_onnx, "--dry-run").startswith("--dry-run must come with")


def test_a_drop_is_held_by_keeping_layers_in_floats(
    tvmopt: Run, small_onnx: Path, data: Path, tmp_path: Path
) -> None:
    recipe, so = tmp_path / "coarse.toml", tmp_path / "m.so"
    recipe.write_text(f"{STATIC}weight_bits = 2\nsensitive_bits = 2\n")
    command = ("compile", small_onnx, "-o", so, "--recipe", recipe, "--calib", data)
    ended = tvmopt(*command, "--eval-data", data, "--max-drop", 0, "--json")
    assert ended.code == 0, ended.err
    told = ended.document["max_drop"]
    # Whatever two bits do to twenty samples: what is written loses nothing.
    assert (told["holds"], told["points"]) == (True, 0.0)
    assert told["drop"] <= 0
    assert told["measured"][0]["kept"] == []
    assert [layer["after"] for layer in ended.document["recipe"]["result"]].count("float32") == len(
        told["kept"]
    )
    easy = tvmopt(*command, "--eval-data", data, "--max-drop", 100)
    assert easy.code == 0, easy.err
    assert "at most 100 allowed" in easy.out
    assert "kept in floats for it: none; artefacts measured: 1" in easy.out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--max-drop", 1), "--max-drop and --eval-data must come together, got one of them"),
        (("--eval-data", "a.npz"), "--max-drop and --eval-data must come together"),
        (("--max-drop", 1, "--eval-data", "a.npz"), "must come with --recipe and --calib"),
        (
            ("--max-drop", -1, "--eval-data", "a.npz", "--recipe", "int8", "--calib", "c.npz"),
            "--max-drop must be at least 0 points, got -1.0",
        ),
        (
            ("--max-drop", 1, "--eval-data", "a.npz", "--recipe", "int8", "--calib", "c.npz",
             "--dry-run"),
            "--max-drop must not come with --dry-run: a drop is measured",
        ),
    ],
)  # fmt: skip
def test_flags_of_a_drop(
    refused: Refused, small_onnx: Path, flags: tuple[object, ...], message: str
) -> None:
    assert message in refused("compile", small_onnx, *flags)
