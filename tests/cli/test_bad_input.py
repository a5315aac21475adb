"""Everything that a user can get wrong is refused by one clear line and exit code 2."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

import tvmopt.metrics.engines
from tvmopt.runtime import read_manifest

Refused = Callable[..., str]
Save = Callable[..., Path]


def test_a_missing_model(refused: Refused, tmp_path: Path) -> None:
    for verb in ("compile", "inspect"):
        assert "no.onnx: must be a readable ONNX file" in refused(verb, tmp_path / "no.onnx")
    for verb in ("inspect", "bench", "profile"):
        message = refused(verb, tmp_path / "no.so")
        assert message == f"{tmp_path}/no.so: cannot be read: No such file or directory"


def test_a_file_that_is_no_onnx(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("hello, this is no model")
    for verb in ("compile", "inspect"):
        assert "text.onnx: must be an ONNX model, got " in refused(verb, tmp_path / "text.onnx")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_onnx(refused: Refused, small_onnx: Path, tmp_path: Path, share: float) -> None:
    whole = small_onnx.read_bytes()
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(whole[: int(share * len(whole))])
    assert "cut.onnx: " in refused("compile", cut, "-o", tmp_path / "m.so")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.onnx"]


def test_unsupported_operators_are_named_all_at_once(
    refused: Refused, save: Save, tmp_path: Path
) -> None:
    odd = [
        helper.make_node("First", ["x"], ["a"], name="one", domain="own"),
        helper.make_node("Second", ["a"], ["scores"], name="two", domain="own"),
    ]
    message = refused("compile", save(tmp_path / "odd.onnx", odd, [1, 4]))
    assert "own.First (node 'one')" in message
    assert "own.Second (node 'two')" in message


def test_an_open_dimension_comes_with_its_flag(
    refused: Refused, save: Save, nodes: Callable, tmp_path: Path
) -> None:
    path = save(tmp_path / "open.onnx", nodes(), ["n", "time", 4])
    message = refused("compile", path)
    assert "input 'x' leaves dimensions 0 (n) and 1 (time) open" in message
    assert "--shape x=1x" in message


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("x=1x5", "dimension 1 of input 'x' is 4 in the model, got 5"),
        ("xx=1x4", "one of the inputs 'x', got 'xx'; did you mean 'x'?"),
        ("x", "--shape must be such as x=1x3x224x224, got 'x'"),
        ("x=1xtwo", "got 'x=1xtwo'"),
        ("x=0x4", "got 'x=0x4'"),
    ],
)
def test_a_shape_that_does_not_fit(
    refused: Refused, small_onnx: Path, flag: str, message: str
) -> None:
    assert message in refused("compile", small_onnx, "--shape", flag)


def test_a_shape_given_twice(refused: Refused, small_onnx: Path) -> None:
    message = refused("compile", small_onnx, "--shape", "x=1x4", "--shape", "x=2x4")
    assert message == "--shape must name each input once, got 'x' twice"


def test_an_unknown_target(refused: Refused, small_onnx: Path) -> None:
    for arguments in (("compile", small_onnx, "-t", "x86-64-v33"), ("targets", "x86-64-v33")):
        message = refused(*arguments)
        assert "'x86-64-v33'" in message
        assert "x86-64-v3 " in message


def test_a_name_that_is_no_identifier(refused: Refused, small_onnx: Path, tmp_path: Path) -> None:
    message = refused("compile", small_onnx, "-o", tmp_path / "m.so", "--name", "my net")
    assert "name must be a C identifier" in message


def test_arrays_that_do_not_fit(refused: Refused, small_so: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "in.npz", tmp_path / "out.npz"
    cases = {
        "arrays must be named as the inputs 'x', got 'y'": {"y": np.zeros((1, 4), "f4")},
        "'x' must be float32, got float64": {"x": np.zeros((1, 4))},
        "'x' must have shape (samples, 4), got (1, 5)": {"x": np.zeros((1, 5), "f4")},
        "'x' must hold samples, got none": {"x": np.zeros((0, 4), "f4")},
        "which are never loaded": {"x": np.array([{}], dtype=object)},
    }
    for expected, arrays in cases.items():
        np.savez(path, **arrays)
        assert expected in refused("run", small_so, "--input", path, "--output", out)
    assert not out.exists()


def test_a_remainder_of_the_batch(
    refused: Refused, small_onnx: Path, data: Path, tmp_path: Path
) -> None:
    from tvmopt.cli.main import run_command

    so = tmp_path / "three.so"
    arguments = ["compile", str(small_onnx), "-o", str(so), "--shape", "x=3x4", "--json"]
    assert run_command(arguments) == 0
    message = refused("run", so, "--input", data, "--output", tmp_path / "out.npz")
    assert "must hold a multiple of the model's batch of 3 samples, got 20" in message


def test_data_that_is_missing_or_damaged(
    refused: Refused, small_so: Path, data: Path, tmp_path: Path
) -> None:
    assert "no.npz: must be a readable .npz" in refused("eval", small_so, "--data", "no.npz")
    cut = tmp_path / "cut.npz"
    cut.write_bytes(data.read_bytes()[:-30])
    assert "cut.npz: must be an .npz file" in refused("eval", small_so, "--data", cut)
    np.savez(cut, x=np.zeros((1, 4), "f4"))
    assert "must hold an array 'labels'" in refused("eval", small_so, "--data", cut)
    np.savez(cut, x=np.zeros((1, 4), "f4"), labels=np.array([6]))
    assert "labels must be in [0, 6)" in refused("eval", small_so, "--data", cut)


def test_an_output_that_cannot_be_written(
    refused: Refused, small_onnx: Path, small_so: Path, data: Path, tmp_path: Path
) -> None:
    missing = tmp_path / "missing"
    message = refused("compile", small_onnx, "-o", missing / "m.so")
    assert message == f"{missing}/m.so: must lie in a folder that exists, '{missing}' does not"
    assert "it is a folder" in refused("compile", small_onnx, "-o", tmp_path)
    run = ("run", small_so, "--input", data, "--output")
    assert "must lie in a folder that exists" in refused(*run, missing / "out.npz")
    (tmp_path / "file").touch()
    assert "must lie in a folder" in refused(*run, tmp_path / "file" / "out.npz")
    assert "must be a folder to write to" in refused("demo", "-o", tmp_path / "file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only(refused: Refused, small_onnx: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        message = refused("compile", small_onnx, "-o", tmp_path / "m.so")
    finally:
        tmp_path.chmod(0o700)
    assert "must lie in a folder that can be written" in message


@pytest.fixture
def full_disk(tmp_path: Path) -> Path:
    """Return a folder on a file system of a few kB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if done.returncode != 0:
        pytest.skip("this user may not mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(
    refused: Refused, small_onnx: Path, small_so: Path, data: Path, full_disk: Path
) -> None:
    message = refused("compile", small_onnx, "-o", full_disk / "m.so")
    assert message == f"{full_disk}/m.so: cannot be written: No space left on device"
    (full_disk / "filler").write_bytes(b"x" * 8000)
    out = full_disk / "out.npz"
    assert "cannot be written: No space" in refused("run", small_so, "-i", data, "-o", out)
    assert [path.name for path in full_disk.iterdir()] == ["filler"]


def test_no_c_compiler(
    refused: Refused, small_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    message = refused("compile", small_onnx, "-o", tmp_path / "m.so")
    assert message.startswith("a C compiler for 'x86_64-linux-gnu' must be on PATH, found no ")
    assert list(tmp_path.iterdir()) == []


def test_an_artefact_for_another_machine(
    refused: Refused, small_so: Path, data: Path, tmp_path: Path
) -> None:
    foreign = bytearray(small_so.read_bytes())
    foreign[18:20] = (183).to_bytes(2, "little")  # e_machine: aarch64
    path = tmp_path / "foreign.so"
    path.write_bytes(foreign)
    out = tmp_path / "out.npz"
    for arguments in (("run", path, "-i", data, "-o", out), ("profile", path), ("bench", path)):
        assert "is built for aarch64, this machine is" in refused(*arguments)


@pytest.mark.parametrize("verb", ["inspect", "bench", "profile"])
def test_a_damaged_artefact(refused: Refused, small_so: Path, tmp_path: Path, verb: str) -> None:
    path = tmp_path / "cut.so"
    path.write_bytes(small_so.read_bytes()[:3000])
    assert "cut.so: " in refused(verb, path)
    path.write_bytes(b"\x7fELF")
    assert "cut.so: " in refused(verb, path)


def test_rivals_that_cannot_run(
    refused: Refused, small_so: Path, small_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = ("bench", small_so, "--rival")
    assert "must say which engine runs it" in refused(*bench, small_onnx)
    assert "did you mean 'openvino'?" in refused(*bench, f"{small_onnx}@openvin")
    assert "other.so: must be a readable file" in refused(*bench, "other.so")
    monkeypatch.setattr(tvmopt.metrics.engines.importlib.util, "find_spec", lambda _: None)
    message = refused(*bench, f"{small_onnx}@openvino")
    assert "OpenVINO must be installed" in message
    assert "'pip install openvino'" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench", "SO", "--threads", "0"], "threads and streams must be at least 1"),
        (["bench", "SO", "--threads", "4096"], "threads must be at most the "),
        (["bench", "SO", "--seconds", "-1"], "seconds must be above 0, got -1.0"),
        (["bench", "SO", "--repeat", "0"], "repeat must be at least 1, got 0"),
        (["profile", "SO", "--runs", "0"], "runs must be at least 1, got 0"),
        (["profile", "SO", "--threads", "0"], "must be at least 1"),
        (["eval", "SO", "--data", "DATA", "--metric", "acuracy"], "did you mean 'accuracy'?"),
        (["eval", "SO", "--data", "DATA", "--metric", ","], "got none"),
        (["eval", "SO", "--data", "DATA", "--max-drop", "1"], "must come with --against"),
        (["eval", "SO", "--data", "DATA", "--against", "SO", "--max-drop", "-1"], "at least 0"),
        (["compil", "model.onnx"], "no such command 'compil'; did you mean 'compile'?"),
        (["compile"], "missing argument 'model.onnx'; see tvmopt --help"),
        (["compile", "a.onnx", "--outpt", "x"], "no such option: --outpt"),
        (["bench", "SO", "--threads", "two"], "invalid value for '--threads'"),
        (["run", "SO"], "missing option '--input'"),
        (["inspect", "a.onnx", "b.onnx"], "b.onnx"),
    ],
)
def test_options_outside_their_domain(
    refused: Refused, small_so: Path, data: Path, arguments: list[str], message: str
) -> None:
    places = {"SO": str(small_so), "DATA": str(data)}
    assert message in refused(*(places.get(argument, argument) for argument in arguments))


def test_inspect_a_manifest_of_another_format(
    refused: Refused, small_so: Path, tmp_path: Path
) -> None:
    text = json.dumps(read_manifest(small_so), indent=1).encode()
    data = small_so.read_bytes()
    assert text in data
    newer = re.sub(rb'"format_version": \d', b'"format_version": 9', data)
    (tmp_path / "newer.so").write_bytes(newer)
    assert "format version must be 1, got 9" in refused("inspect", tmp_path / "newer.so")
