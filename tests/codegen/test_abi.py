"""The C interface, called as a C program would."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tvm.script import tirx as T  # noqa: N812 - TVMScript is written so

Compiled = Callable[..., Path]

ROWS, COLUMNS = 64, 1024


@T.prim_func(s_tir=True)
def halves(a: T.Buffer((64, 1024), "float32"), b: T.Buffer((64,), "float32")):  # noqa: ANN201
    """Sum each row's halves through workspace, a row a task; 4 KiB are too many for the stack."""
    for i in T.parallel(64):
        with T.sblock("row"):
            vi = T.axis.spatial(64, i)
            half = T.sblock_alloc_buffer((1024,), "float32")
            for j in range(1024):
                half[j] = a[vi, j] * T.float32(0.5)
            b[vi] = T.float32(0)
            for j in range(1024):
                b[vi] = b[vi] + half[j]


@T.prim_func(s_tir=True)
def greedy(a: T.Buffer((4,), "float32"), b: T.Buffer((4,), "float32")):  # noqa: ANN201
    """Ask for 64 TiB of workspace, all of them used, or TVM would ask for less."""
    with T.sblock("root"):
        huge = T.sblock_alloc_buffer((T.int64(1 << 44),), "float32")
        for i in T.serial(T.int64(1 << 44)):
            huge[i] = a[i % T.int64(4)]
        for i in T.serial(T.int64(1 << 44)):
            b[i % T.int64(4)] = huge[i]


@T.prim_func(s_tir=True)
def complaint(a: T.Buffer((4,), "float32"), b: T.Buffer((4,), "float32")):  # noqa: ANN201
    """Say what is wrong, as generated checks do, then fail for lack of memory in every task."""
    T.evaluate(T.call_extern("int32", "TVMFFIErrorSetRaisedFromCStr", "ValueError", "bad a"))
    for p in T.parallel(4):
        with T.sblock("task"):
            vp = T.axis.spatial(4, p)
            huge = T.sblock_alloc_buffer((T.int64(1 << 44),), "float32")
            for i in T.serial(T.int64(1 << 44)):
                huge[i] = a[i % T.int64(4)]
            for i in T.serial(T.int64(1 << 44)):
                b[vp] = huge[i]


def rows(seed: int = 0) -> np.ndarray:
    # Small whole numbers, so that sums are exact in any order.
    return np.random.default_rng(seed).integers(-8, 8, (ROWS, COLUMNS)).astype("float32")


@pytest.fixture(scope="module")
def abi(make: SimpleNamespace, target: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model of three steps: double, then the row sums, then plus one."""
    from tvmopt import codegen

    builder = make.Builder(x=(ROWS, COLUMNS))
    double = make.elementwise(lambda a: a * 2, (ROWS, COLUMNS), parallel=True)
    plus = make.elementwise(lambda a: a + 1, (ROWS,))

    def body(x: Any) -> Any:
        y = builder.call(double, [x], (ROWS, COLUMNS), name="double")
        y = builder.call(halves, [y], (ROWS,), name="sums")
        return builder.call(plus, [y], (ROWS,), name="plus")

    meta = codegen.BuildMeta(input_names=("x",), output_names=("y",))
    artifact = codegen.build(builder.module(body), target, meta)
    return make.Abi(artifact.save(tmp_path_factory.mktemp("abi") / "model.so"))


def want(x: np.ndarray) -> np.ndarray:
    return x.sum(axis=1) + 1


@pytest.fixture(params=[1, 2, 4])
def instance(request: pytest.FixtureRequest, abi: Any) -> Any:
    made = abi.create(request.param)
    assert made, abi.error(None)
    yield made
    abi.destroy(made)


def test_it_describes_itself(abi: Any) -> None:
    assert (abi.input_count(), abi.output_count(), abi.step_count()) == (1, 1, 3)
    given, result = abi.input(0).contents, abi.output(0).contents
    assert (given.name, given.dtype, given.bytes) == (b"x", b"float32", 4 * ROWS * COLUMNS)
    assert given.shape[: given.ndim] == [ROWS, COLUMNS]
    assert (result.name, result.dtype, result.bytes) == (b"y", b"float32", 4 * ROWS)
    assert not any(f(i) for f in (abi.input, abi.output) for i in (-1, 1, 1 << 30))
    assert abi.arena_bytes() == 4 * ROWS * COLUMNS + 4 * ROWS
    assert b'"name": "model"' in abi.manifest()


def test_results_are_right_with_any_number_of_threads(
    abi: Any, instance: int, make: SimpleNamespace
) -> None:
    for seed in range(5):
        x, y = make.aligned(rows(seed)), make.aligned(np.zeros(ROWS, "float32"))
        assert abi.call(instance, [x], [y]) == 0, abi.error(instance)
        np.testing.assert_array_equal(y, want(x))


def test_the_pool_survives_2000_runs_with_pauses(
    abi: Any, instance: int, make: SimpleNamespace
) -> None:
    x, y = make.aligned(rows()), make.aligned(np.zeros(ROWS, "float32"))
    right = want(x)
    pause = threading.Event()
    for i in range(2000):
        y[...] = 0
        assert abi.call(instance, [x], [y]) == 0
        assert (y == right).all()
        if i % 100 == 0:
            pause.wait(0.002)  # long enough for the workers to park


@pytest.mark.parametrize("shift", [4, 60, 1])
def test_unaligned_buffers_are_staged(
    shift: int, abi: Any, instance: int, make: SimpleNamespace
) -> None:
    # One byte off is no array that NumPy computes with, but a buffer like any other.
    x, y = make.aligned(rows().view(np.uint8), shift), make.aligned(np.zeros(4 * ROWS, "u1"), shift)
    before = x.copy()
    for _ in range(3):
        assert abi.call(instance, [x], [y]) == 0
        np.testing.assert_array_equal(y.copy().view("float32"), want(rows()))
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ([4 * ROWS * COLUMNS - 4], [4 * ROWS], "input 'x' must have 262144 bytes, got 262140"),
        ([4 * ROWS * COLUMNS], [4 * ROWS + 1], "output 'y' must have 256 bytes, got 257"),
        ([], [4 * ROWS], "the model has 1 inputs, got 0"),
        ([4 * ROWS * COLUMNS] * 2, [4 * ROWS], "the model has 1 inputs, got 2"),
        ([4 * ROWS * COLUMNS], [], "the model has 1 outputs, got 0"),
    ],
)
def test_wrong_sizes_and_counts_are_refused(
    inputs: list[int], outputs: list[int], message: str, abi: Any, instance: int
) -> None:
    given = [np.zeros(size, np.uint8) for size in inputs]
    results = [np.full(size, 7, np.uint8) for size in outputs]
    assert abi.call(instance, given, results) == -1
    assert abi.error(instance) == message
    assert all((result == 7).all() for result in results)


def test_null_and_overlapping_buffers_are_refused(
    abi: Any, instance: int, make: SimpleNamespace
) -> None:
    x, y = make.aligned(rows()), make.aligned(np.zeros(ROWS, "float32"))
    null = (abi.Buffer * 1)((None, x.nbytes))
    assert abi.run(instance, null, 1, abi.buffers([y]), 1) == -1
    assert abi.error(instance) == "input 'x' is NULL"
    assert abi.run(instance, None, 1, abi.buffers([y]), 1) == -1
    assert abi.error(instance) == "the model has 1 inputs, got 0"
    assert abi.call(instance, [x], [x[3, :ROWS]]) == -1
    assert abi.error(instance) == "output 'y' overlaps input 'x'"
    assert abi.run(None, abi.buffers([x]), 1, abi.buffers([y]), 1) == -1
    assert abi.call(instance, [x], [y]) == 0


@pytest.mark.parametrize("threads", [0, -1, 1025])
def test_thread_counts_outside_the_range_are_refused(threads: int, abi: Any) -> None:
    assert not abi.create(threads)
    assert abi.error(None) == "threads must be in [1, 1024]"


def test_destroying_nothing_is_allowed(abi: Any) -> None:
    abi.destroy(None)


def test_one_thread_starts_none_and_four_start_three(abi: Any) -> None:
    def count() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    before = count()
    single = abi.create(1)
    assert count() == before
    several = abi.create(4)
    assert count() == before + 3
    abi.destroy(several)
    abi.destroy(single)
    # A joined thread leaves /proc a moment after the join.
    for _ in range(100):
        if count() == before:
            break
        threading.Event().wait(0.01)
    assert count() == before


def test_instances_run_at_once_in_several_threads(abi: Any, make: SimpleNamespace) -> None:
    """Each thread has an instance with a pool of its own, and data of its own."""
    failures: list[str] = []

    def work(seed: int) -> None:
        made = abi.create(1 + seed % 2)
        x, y = make.aligned(rows(seed)), make.aligned(np.zeros(ROWS, "float32"))
        for _ in range(200):
            y[...] = 0
            if abi.call(made, [x], [y]) != 0 or not (y == want(x)).all():
                failures.append(f"{seed}: {abi.error(made)}")
                break
        abi.destroy(made)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_running_instance_refuses_a_second_run(
    abi: Any, instance: int, make: SimpleNamespace
) -> None:
    x, y = make.aligned(rows()), make.aligned(np.zeros(ROWS, "float32"))
    seen: list[int] = []

    @abi.STEP
    def again(_user: int, step: int, _layer: bytes, phase: int) -> None:
        if (step, phase) == (1, 0):
            seen.append(abi.call(instance, [x], [y]))

    abi.on_step(instance, again, None)
    assert abi.call(instance, [x], [y]) == 0
    assert seen == [-2]
    np.testing.assert_array_equal(y, want(x))
    abi.on_step(instance, abi.STEP(0), None)


def test_a_step_callback_may_run_another_instance(
    abi: Any, instance: int, make: SimpleNamespace
) -> None:
    other = abi.create(2)
    x, y = make.aligned(rows(1)), make.aligned(np.zeros(ROWS, "float32"))
    x2, y2 = make.aligned(rows(2)), make.aligned(np.zeros(ROWS, "float32"))
    seen: list[int] = []

    @abi.STEP
    def nested(_user: int, _step: int, _layer: bytes, _phase: int) -> None:
        seen.append(abi.call(other, [x2], [y2]))

    abi.on_step(instance, nested, None)
    assert abi.call(instance, [x], [y]) == 0
    assert seen == [0] * 6
    np.testing.assert_array_equal(y, want(x))
    np.testing.assert_array_equal(y2, want(x2))
    abi.destroy(other)


def test_steps_are_announced_in_order(abi: Any, instance: int, make: SimpleNamespace) -> None:
    seen: list[tuple[Any, ...]] = []

    @abi.STEP
    def note(user: int, step: int, layer: bytes, phase: int) -> None:
        seen.append((user, step, layer.decode(), phase))

    x, y = make.aligned(rows()), make.aligned(np.zeros(ROWS, "float32"))
    abi.on_step(instance, note, 42)
    assert abi.call(instance, [x], [y]) == 0
    layers = enumerate(["double", "sums", "plus"])
    assert seen == [(42, i, layer, phase) for i, layer in layers for phase in (0, 1)]
    abi.on_step(instance, abi.STEP(0), None)
    assert abi.call(instance, [x], [y]) == 0
    assert len(seen) == 6


def test_profile_fills_one_time_a_step(abi: Any, instance: int, make: SimpleNamespace) -> None:
    seconds = np.full(3, -1.0)
    x, y = make.aligned(rows()), make.aligned(np.zeros(ROWS, "float32"))
    abi.profile(instance, seconds.ctypes.data)
    assert abi.call(instance, [x], [y]) == 0
    assert ((seconds > 0) & (seconds < 10)).all()
    abi.profile(instance, None)
    seconds[...] = -1
    assert abi.call(instance, [x], [y]) == 0
    assert (seconds == -1).all()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("kernel", "reason"),
    [(greedy, "out of memory for workspace"), (complaint, "ValueError: bad a")],
)
def test_a_failing_kernel_is_named_with_its_reason(
    threads: int, kernel: Any, reason: str, make: SimpleNamespace, compiled: Compiled
) -> None:
    builder = make.Builder(x=(4,))
    mod = builder.module(lambda x: builder.call(kernel, [x], (4,), name="head"))
    abi = make.Abi(compiled(mod))
    instance = abi.create(threads)
    x, y = make.aligned(np.ones(4, "float32")), make.aligned(np.zeros(4, "float32"))
    for _ in range(2):
        assert abi.call(instance, [x], [y]) == -1
        assert abi.error(instance) == f"layer 'head' failed: {reason}"
    abi.destroy(instance)


def test_a_forked_instance_refuses_instead_of_waiting_forever(
    abi: Any, make: SimpleNamespace
) -> None:
    instance = abi.create(2)
    x, y = make.aligned(rows()), make.aligned(np.zeros(ROWS, "float32"))
    assert abi.call(instance, [x], [y]) == 0
    child = os.fork()
    if child == 0:
        status = abi.call(instance, [x], [y])
        said = abi.error(instance)
        abi.destroy(instance)
        os._exit(0 if status == -1 and "does not outlive fork()" in said else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert abi.call(instance, [x], [y]) == 0
    abi.destroy(instance)


@pytest.mark.parametrize(("parallel", "started"), [(False, 0), (True, 2)])
def test_threads_are_started_for_parallel_kernels_alone(
    parallel: bool, started: int, make: SimpleNamespace, compiled: Compiled
) -> None:
    builder = make.Builder(x=(64,))
    one = make.elementwise(lambda x: x + 1, (64,), parallel=parallel)
    abi = make.Abi(compiled(builder.module(lambda x: builder.call(one, [x], (64,)))))

    def running() -> int:
        return sum(1 for _ in Path("/proc/self/task").iterdir())

    before = running()
    instance = abi.create(3)
    assert running() == before + started
    x, y = make.aligned(np.arange(64, dtype="float32")), make.aligned(np.zeros(64, "float32"))
    assert abi.call(instance, [x], [y]) == 0
    np.testing.assert_array_equal(y, x + 1)
    abi.destroy(instance)


def test_a_step_costs_less_than_100_ns(make: SimpleNamespace, compiled: Compiled) -> None:
    """Time 1000 steps that add one to one number; the best of many runs is the executor's own."""
    steps = 1000
    func = make.elementwise(lambda a: a + 1, (1,))
    builder = make.Builder(x=(1,))

    def body(x: Any) -> Any:
        for _ in range(steps):
            x = builder.call(func, [x], (1,))
        return x

    abi = make.Abi(compiled(builder.module(body)))
    instance = abi.create(1)
    x, y = make.aligned(np.ones(1, "float32")), make.aligned(np.zeros(1, "float32"))
    seconds = []
    for _ in range(50):
        start = time.perf_counter()
        assert abi.call(instance, [x], [y]) == 0
        seconds.append(time.perf_counter() - start)
    assert y[0] == 1 + steps
    assert min(seconds) / steps < 100e-9
    abi.destroy(instance)
