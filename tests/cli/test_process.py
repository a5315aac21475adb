"""The real entry point, in processes of its own: exit codes, signals, pipes, start-up."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

COMMAND = shutil.which("tvmopt", path=sysconfig.get_path("scripts")) or "tvmopt"


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False, **options
    )


def test_done_is_zero_and_bad_input_two(small_so: Path) -> None:
    done = run("inspect", small_so, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    refused = run("inspect", "no.so")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "error: no.so: cannot be read: No such file or directory\n"


@pytest.mark.parametrize("how", [{"TVMOPT_DEBUG": "1"}, {}])
def test_debug_shows_where(how: dict[str, str]) -> None:
    flags = [] if how else ["--debug"]
    refused = run("inspect", "no.so", *flags, env=os.environ | how)
    assert refused.returncode == 2
    assert "Traceback" in refused.stderr
    assert refused.stderr.splitlines()[-1].startswith("error: no.so")


@pytest.mark.parametrize(
    ("number", "code", "calibrates"),
    [(signal.SIGINT, 130, False), (signal.SIGTERM, 143, False), (signal.SIGINT, 130, True)],
)
def test_a_signal_during_compile_leaves_nothing(
    small_onnx: Path, data: Path, tmp_path: Path, number: int, code: int, calibrates: bool
) -> None:
    recipe = ["--recipe", "w4a8", "--calib", str(data)] if calibrates else []
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    out.mkdir()
    scratch.mkdir()
    # An unnoticed compiler that takes its time: the signal comes while it runs, whatever the
    # machine's speed.
    slow = tmp_path / "cc"
    slow.write_text(f'#!/bin/sh\ntouch "{tmp_path}/started"\nexec sleep 60\n')
    slow.chmod(0o755)
    process = subprocess.Popen(
        [COMMAND, "compile", str(small_onnx), "-o", str(out / "model.so"), *recipe],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        for _ in range(600):
            if (tmp_path / "started").exists() or process.poll() is not None:
                break
            time.sleep(0.1)
        os.killpg(process.pid, number)
        printed, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, printed, said) == (code, b"", b"")
    assert list(out.iterdir()) == []
    assert [path for path in scratch.iterdir() if path.name.startswith("tvmopt-")] == []


def test_an_interrupted_bench_leaves_no_process(small_so: Path) -> None:
    process = subprocess.Popen(
        [COMMAND, "bench", str(small_so), "--seconds", "600"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        for _ in range(600):
            if workers(process.pid):
                break
            time.sleep(0.1)
        assert workers(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        printed, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, printed, said) == (130, b"", b"")
    for _ in range(100):  # they end by themselves, a moment after their parent
        if not workers(process.pid):
            break
        time.sleep(0.1)
    assert not workers(process.pid)


def workers(group: int) -> list[int]:
    """Return the processes of a group, without its leader."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and int(path.name) != group:
            try:
                if os.getpgid(int(path.name)) == group:
                    found.append(int(path.name))
            except ProcessLookupError:
                continue
    return found


def test_a_reader_that_leaves_is_no_error(small_so: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [COMMAND, "inspect", str(small_so)], stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_an_output_that_is_full_is_an_error(small_so: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [COMMAND, "inspect", str(small_so), "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (2, "error: No space left on device\n")


def imported(*arguments: object) -> set[str]:
    """Return the top-level modules that a command line imports."""
    code = (
        "import sys\nfrom tvmopt.cli.main import run_command\n"
        f"code = run_command({[str(argument) for argument in arguments]!r})\n"
        "sys.stderr.write(' '.join(sys.modules))\nsys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return {name.split(".")[0] for name in done.stderr.split()}


def test_help_imports_neither_numpy_nor_the_compiler() -> None:
    assert not imported("--help") & {"numpy", "tvm", "onnx"}


@pytest.mark.parametrize("verb", ["run", "bench", "profile", "inspect", "eval"])
def test_what_needs_no_compiler_imports_none(
    verb: str, small_so: Path, data: Path, tmp_path: Path
) -> None:
    options = {
        "run": ["--input", data, "--output", tmp_path / "out.npz"],
        "bench": ["--repeat", 1, "--seconds", 0.01],
        "eval": ["--data", data],
    }
    assert not imported(verb, small_so, *options.get(verb, [])) & {"tvm", "onnx", "matplotlib"}


def test_a_terminal_gets_a_progress_bar(small_so: Path) -> None:
    leader, follower = os.openpty()
    done = subprocess.run(
        [COMMAND, "bench", str(small_so), "--repeat", "2", "--seconds", "0.01"],
        stdout=subprocess.PIPE,
        stderr=follower,
        env=os.environ | {"TERM": "xterm"},
        check=False,
    )
    os.close(follower)
    shown = os.read(leader, 1 << 16)
    os.close(leader)
    assert done.returncode == 0
    assert b"turns" in shown
    assert b"turns" not in done.stdout.splitlines()[0]
