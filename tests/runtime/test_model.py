"""Opening and calling artefacts from Python."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tvmopt import runtime
from tvmopt.errors import ArtifactError, DataError, OptionError

X = np.linspace(-1, 1, 12, dtype="float32").reshape(3, 4)
WANT = 2 * X + np.arange(12, dtype="float32").reshape(3, 4)
A, B = X[:2, :3], X[1:, 1:]


def thread_count() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_one_array_gives_one_array(threads: int, affine: Path) -> None:
    with runtime.open(affine, threads=threads) as net:
        y = net(X)
    assert isinstance(y, np.ndarray)
    assert y.ctypes.data % 64 == 0
    np.testing.assert_array_equal(y, WANT)


def test_it_describes_itself(affine: Path) -> None:
    with runtime.open(affine) as net:
        assert net.inputs == (runtime.TensorInfo(name="x", dtype="float32", shape=(3, 4)),)
        assert net.outputs == (runtime.TensorInfo(name="y", dtype="float32", shape=(3, 4)),)
        assert net.inputs[0].nbytes == 48
        assert net.manifest["name"] == "affine"
        assert [(s.layer, s.kernel, s.macs, s.parallel) for s in net.steps] == [
            ("double", "f32_double", 12, True),
            ("plus", "plus_f", 12, True),
        ]
        assert repr(net) == f"Model({str(affine)!r}, threads=1)"


def test_inputs_by_name(affine: Path, pair: Path) -> None:
    with runtime.open(affine) as net:
        np.testing.assert_array_equal(net(x=X), WANT)
        np.testing.assert_array_equal(net({"x": X}), WANT)
    with runtime.open(pair) as net:
        got = net({"out": B, "a:0": A})
        assert isinstance(got, dict)
        assert list(got) == ["sum", "product"]
        np.testing.assert_array_equal(got["sum"], A + B)
        np.testing.assert_array_equal(got["product"], A * B)


def test_results_of_two_calls_are_two_arrays(affine: Path) -> None:
    with runtime.open(affine) as net:
        first = net(X)
        net(-X)
    np.testing.assert_array_equal(first, WANT)  # also after closing


def test_strided_and_read_only_inputs(affine: Path) -> None:
    frozen = X.copy()
    frozen.flags.writeable = False
    with runtime.open(affine) as net:
        np.testing.assert_array_equal(net(np.asfortranarray(X)), WANT)
        np.testing.assert_array_equal(net(np.repeat(X, 2, axis=1)[:, ::2]), WANT)
        np.testing.assert_array_equal(net(frozen), WANT)
        np.testing.assert_array_equal(net(X.tolist() and np.float32(X.tolist())), WANT)


@pytest.mark.parametrize("shift", [0, 4, 32])
def test_results_may_go_to_the_callers_arrays(shift: int, affine: Path, pair: Path) -> None:
    raw = np.zeros(256, np.uint8)
    start = -raw.ctypes.data % 64 + shift
    out = raw[start : start + 48].view("float32").reshape(3, 4)
    with runtime.open(affine) as net:
        assert net(X, out=out) is out
        np.testing.assert_array_equal(out, WANT)
    mine = {"product": np.empty((2, 3), "float32"), "sum": np.empty((2, 3), "float32")}
    with runtime.open(pair) as net:
        got = net({"a:0": A, "out": B}, out=mine)
    assert got["sum"] is mine["sum"]
    np.testing.assert_array_equal(mine["product"], A * B)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (X[:2], r"input 'x' must have shape \(3, 4\), got \(2, 4\)"),
        (X[None], r"input 'x' must have shape \(3, 4\), got \(1, 3, 4\)"),
        (X.astype("float64"), "input 'x' must be float32, got float64"),
        (X.astype(">f4"), "input 'x' must be float32, got >f4"),
        (X.tolist(), "input 'x' must be float32, got float64"),
        ({"y": X}, "inputs must be named 'x', got 'y'"),
        ({"x": X, "y": X}, "inputs must be named 'x', got 'x', 'y'"),
        ({}, "inputs must be named 'x', got none"),
        (None, "inputs must be named 'x', got none"),
        ("text", "input 'x' must be float32, got <U4"),
    ],
)
def test_data_that_does_not_fit_is_refused(given: Any, message: str, affine: Path) -> None:
    with runtime.open(affine) as net, pytest.raises(DataError, match=message):
        net(given)


def test_ambiguous_calls_are_refused(affine: Path, pair: Path) -> None:
    with runtime.open(affine) as net:
        with pytest.raises(OptionError, match="as one argument or by name, got both"):
            net(X, x=X)
        with pytest.raises(OptionError, match="runs must be at least 1, got 0"):
            net.profile(X, runs=0)
    with runtime.open(pair) as net, pytest.raises(DataError, match="given by name, the model has"):
        net(A)


def test_unusable_result_arrays_are_refused(affine: Path) -> None:
    good = np.empty((3, 4), "float32")
    frozen = good.copy()
    frozen.flags.writeable = False
    with runtime.open(affine) as net:
        for out, message in [
            (good[:2], "output 'y' must have shape"),
            (good.astype("int32"), "output 'y' must be float32, got int32"),
            (np.asfortranarray(good), "output 'y' must be a contiguous, writeable array"),
            (frozen, "output 'y' must be a contiguous, writeable array"),
            ({"z": good}, "outputs must be named 'y', got 'z'"),
        ]:
            with pytest.raises(DataError, match=message):
                net(X, out=out)
        with pytest.raises(ArtifactError, match="output 'y' overlaps input 'x'"):
            net(good, out=good)


@pytest.mark.parametrize("threads", [0, -2, 1025, 1.5, True, "2"])
def test_thread_counts_outside_the_range_are_refused(threads: Any, affine: Path) -> None:
    with pytest.raises(OptionError, match=r"threads must be a whole number in \[1, 1024\], got"):
        runtime.open(affine, threads=threads)


def test_a_closed_model_says_so(affine: Path) -> None:
    net = runtime.open(affine)
    net.close()
    net.close()
    with pytest.raises(ArtifactError, match=r"affine\.so: the model is closed; open it again"):
        net(X)


def test_threads_end_with_the_model(affine: Path) -> None:
    before = thread_count()
    net = runtime.open(affine, threads=3)
    net(X)
    assert thread_count() == before + 2
    gone = weakref.ref(net)
    del net
    gc.collect()
    assert gone() is None
    for _ in range(100):  # a joined thread leaves /proc a moment later
        if thread_count() == before:
            return
        time.sleep(0.01)
    pytest.fail(f"{thread_count() - before} threads are left")


def test_opening_and_closing_often_leaks_nothing(affine: Path) -> None:
    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count("affine.so")

    for _ in range(50):
        with runtime.open(affine, threads=2) as net:
            net(X)
    assert mapped() == 0


def test_a_newer_artefact_at_the_same_path_is_the_one_opened(
    affine: Path, pair: Path, tmp_path: Path
) -> None:
    """The loader compares names first, so an open artefact must not stand in for its successor."""
    path = tmp_path / "model.so"
    shutil.copy(affine, path)
    first = runtime.open(path)
    path.unlink()
    shutil.copy(pair, path)
    with runtime.open(path) as second:
        np.testing.assert_array_equal(second({"a:0": A, "out": B})["sum"], A + B)
        np.testing.assert_array_equal(first(X), WANT)
    first.close()


def test_one_model_serves_several_threads_in_turn(affine: Path) -> None:
    wrong: list[int] = []
    with runtime.open(affine, threads=2) as net:

        def work(seed: int) -> None:
            x = np.full((3, 4), seed, "float32")
            want = 2 * x + np.arange(12, dtype="float32").reshape(3, 4)
            wrong.extend(seed for _ in range(100) if not (net(x) == want).all())

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_profile_times_each_step_of_each_run(affine: Path) -> None:
    with runtime.open(affine) as net:
        times = net.profile(X, runs=7)
        assert [t.step for t in times] == list(net.steps)
        for t in times:
            assert t.seconds.shape == (7,)
            assert ((t.seconds > 0) & (t.seconds < 1)).all()
        np.testing.assert_array_equal(net(X), WANT)


def test_large_artefacts_open_and_start_fast(large: Path) -> None:
    """At least 20 MB: under 5 ms to open, first run at most 5 ms above twice the median.

    Counted in this thread's CPU time, page faults included, for other programs run beside tests.
    """
    assert large.stat().st_size > 20_000_000
    opened, late = [], []
    for _ in range(5):
        start = time.thread_time()
        net = runtime.open(large)
        opened.append(time.thread_time() - start)
        x, out = runtime.aligned_empty(net.inputs[0]), runtime.aligned_empty(net.outputs[0])
        x[...] = out[...] = 1  # the caller's memory is there when the model starts
        runs = []
        for _ in range(5):
            start = time.thread_time()
            net(x, out=out)
            runs.append(time.thread_time() - start)
        net.close()
        late.append(runs[0] - 2 * float(np.median(runs)))
    assert min(opened) < 5e-3
    assert min(late) < 5e-3


def test_running_does_not_import_the_compiler(affine: Path) -> None:
    script = (
        "import sys, numpy as np, tvmopt.runtime as runtime\n"
        f"net = runtime.open({str(affine)!r}, threads=2)\n"
        "assert net(np.zeros((3, 4), 'float32'))[2, 3] == 11\n"
        "heavy = {'tvm', 'tvm_ffi', 'onnx', 'onnxscript', 'scipy', 'matplotlib', 'typer'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_a_binding_runs_on_the_same_arrays_again(affine: Path) -> None:
    with runtime.open(affine) as net:
        bound = net.bind(X)
        bound.run()
        np.testing.assert_array_equal(bound.outputs["y"], WANT)
        bound.inputs["x"][...] = 0
        bound.run()
        np.testing.assert_array_equal(bound.outputs["y"], WANT - 2 * X)
    with pytest.raises(ArtifactError, match="the model is closed"):
        bound.run()


def test_a_binding_keeps_its_model_and_its_arrays_alive(affine: Path) -> None:
    bound = runtime.open(affine).bind(X.copy())
    gc.collect()
    bound.run()
    np.testing.assert_array_equal(bound.outputs["y"], WANT)


def test_a_binding_refuses_what_a_call_refuses(affine: Path) -> None:
    with runtime.open(affine) as net, pytest.raises(DataError, match="shape"):
        net.bind(X[:2])
