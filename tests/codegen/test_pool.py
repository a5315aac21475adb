"""The pool and the workspace stack in C, under the compiler's sanitizers where it has them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tvmopt.codegen import emit

# What the plan and the public header would bring.
_TYPES = """
#define _GNU_SOURCE
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
typedef void (*tvmopt_step_fn)(void);
#define TVMOPT_NAME test
#define PLAN_SHAPES 1
#define PLAN_ARGUMENTS 1
#include "internal.h"
#include "scratch.c"
#include "pool.c"
#define CHECK(x) (void)((x) || (fprintf(stderr, "line %d: %s\\n", __LINE__, #x), exit(1), 0))
"""

_POOL = (
    _TYPES
    + """
/* THREADS comes from the command line */
enum { ROUNDS = 2000, TASKS = THREADS == 1 ? 1 : THREADS * TASKS_PER_THREAD };

typedef struct {
    int ran[TASKS], nested[TASKS], fail;
} job;

static int inner(int task, task_group *group, void *closure) {
    CHECK(task == 0 && group->num_task == 1); /* a loop inside a task runs alone */
    ++*(int *)closure;
    return 0;
}

static int outer(int task, task_group *group, void *closure) {
    job *j = closure;
    CHECK(group->num_task == TASKS && task >= 0 && task < TASKS);
    j->ran[task]++;
    CHECK(pool_launch(current, inner, &j->nested[task]) == 0);
    return j->fail == task ? -1 : 0;
}

static void play(instance_t *instance, worker_t *workers) {
    job j = {.fail = -1};
    for (int round = 1; round <= ROUNDS; round++) {
        j.fail = round % 7 < TASKS ? round % 7 : -1;
        CHECK(pool_launch(&workers[0], outer, &j) == (j.fail < 0 ? 0 : -1));
        for (int i = 0; i < TASKS; i++) CHECK(j.ran[i] == round && j.nested[i] == round);
        /* Sometimes long enough for all to sleep, sometimes while they go to sleep. */
        struct timespec pause = {0, round % 50 == 0 ? 400000 : round % 9 == 0 ? SPIN_NS : 0};
        if (pause.tv_nsec) nanosleep(&pause, NULL);
    }
}

int main(void) {
    instance_t *instance = calloc(1, sizeof *instance);
    worker_t *workers = calloc(THREADS, sizeof *workers);
    CHECK(instance && workers);
    for (int i = 0; i < THREADS; i++) workers[i] = (worker_t){.instance = instance, .index = i};
    CHECK(pool_start(&instance->pool, workers, THREADS));
    current = &workers[0];
    play(instance, workers);
    pool_stop(&instance->pool);
    free(workers);
    free(instance);
    puts("done");
    return 0;
}
"""
)

# Who takes which task, in what order, if nobody runs beside it.
_CLAIMS = (
    _TYPES
    + """
static void start(pool_t *pool, uint32_t launch) {
    for (int i = 0; i < THREADS; i++)
        atomic_store(&pool->lists[i].claims, (uint64_t)launch << 32);
}

int main(void) {
    task_list lists[THREADS];
    pool_t pool = {.threads = THREADS, .lists = lists};
    start(&pool, 5);
    for (int thread = 0; thread < THREADS; thread++)
        CHECK(claim_task(&pool, thread, 4) < 0 && claim_task(&pool, thread, 6) < 0);
    /* All at the same pace: each gets its own, and the first tasks go to all of them. */
    for (int i = 0; i < TASKS_PER_THREAD; i++)
        for (int thread = 0; thread < THREADS; thread++)
            CHECK(claim_task(&pool, thread, 5) == i * THREADS + thread);
    CHECK(claim_task(&pool, 0, 5) < 0);
    /* One alone: its own first, then those of the others, each once. */
    start(&pool, 6);
    int seen[THREADS * TASKS_PER_THREAD] = {0};
    for (int i = 0; i < THREADS * TASKS_PER_THREAD; i++) {
        const int task = claim_task(&pool, 1, 6);
        CHECK(task >= 0 && task < THREADS * TASKS_PER_THREAD && !seen[task]++);
        CHECK(i >= TASKS_PER_THREAD || task % THREADS == 1);
    }
    CHECK(claim_task(&pool, 1, 6) < 0);
    puts("done");
    return 0;
}
"""
)

_SCRATCH = (
    _TYPES
    + """
enum { SLOTS = 12 };

static unsigned seed = 1;
static unsigned draw(unsigned below) {
    seed = seed * 1103515245u + 12345u;
    return (seed >> 16) % below;
}

/* Hold blocks in any order, each filled with its own byte; it must still be there when it goes. */
static void play(scratch_t *scratch, int moves) {
    unsigned char *held[SLOTS] = {0};
    size_t sizes[SLOTS];
    for (int i = 0; i < moves; i++) {
        const unsigned slot = draw(SLOTS);
        if (held[slot]) {
            for (size_t k = 0; k < sizes[slot]; k++) CHECK(held[slot][k] == slot + 1);
            scratch_free(scratch, held[slot]);
            held[slot] = NULL;
        } else {
            sizes[slot] = draw(5000);
            held[slot] = scratch_alloc(scratch, sizes[slot]);
            CHECK(held[slot] && (uintptr_t)held[slot] % ALIGNMENT == 0);
            memset(held[slot], (int)slot + 1, sizes[slot]);
        }
    }
    if (draw(2)) return; /* as after a failed run: reset must free what is left */
    for (int slot = 0; slot < SLOTS; slot++)
        if (held[slot]) scratch_free(scratch, held[slot]);
    CHECK(scratch->live == 0 && scratch->used == 0 && !scratch->heap);
}

int main(void) {
    scratch_t scratch = {0};
    CHECK(scratch_reserve(&scratch, 4096));
    for (int round = 0; round < 500; round++) {
        scratch_reset(&scratch);
        play(&scratch, 60);
    }
    CHECK(!scratch_alloc(&scratch, SIZE_MAX));
    CHECK(!scratch_alloc(&scratch, SIZE_MAX / 2 - 64));
    /* Blocks in stack order come from the stack from the second time on. */
    for (int round = 0; round < 3; round++) {
        scratch_reset(&scratch);
        void *a = scratch_alloc(&scratch, 300000), *b = scratch_alloc(&scratch, 200000);
        CHECK(a && b && (round == 0 || !scratch.heap));
        scratch_free(&scratch, b);
        scratch_free(&scratch, a);
    }
    scratch_release(&scratch);
    puts("done");
    return 0;
}
"""
)


def run(program: str, folder: Path, flags: list[str]) -> None:
    for name, data in emit.source_files().items():
        (folder / name).write_bytes(data)
    (folder / "test.c").write_text(program)
    command = ["cc", "-std=c11", "-O1", "-g", "-w", *flags, "test.c", "-o", "test", "-lpthread"]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if built.returncode != 0 and "cannot find" in built.stderr:
        pytest.skip(f"the C compiler has no library for {' '.join(flags)}")
    assert built.returncode == 0, built.stderr
    done = subprocess.run(
        [folder / "test"],
        env={"ASAN_OPTIONS": "allocator_may_return_null=1"},  # as malloc does
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("ThreadSanitizer does not work with this kernel's memory layout")
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


# Two spin where there are as many CPUs; eight mostly sleep and wake.
@pytest.mark.parametrize("threads", [2, 8])
@pytest.mark.parametrize("flags", [[], ["-fsanitize=thread"], ["-fsanitize=address,undefined"]])
def test_each_launch_runs_each_task_once(flags: list[str], threads: int, tmp_path: Path) -> None:
    run(_POOL, tmp_path, [*flags, f"-DTHREADS={threads}"])


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_a_thread_takes_its_own_tasks_first(threads: int, tmp_path: Path) -> None:
    run(_CLAIMS, tmp_path, ["-fsanitize=address,undefined", f"-DTHREADS={threads}"])


@pytest.mark.parametrize("flags", [[], ["-fsanitize=address,undefined"]])
def test_workspace_blocks_never_meet(flags: list[str], tmp_path: Path) -> None:
    run(_SCRATCH, tmp_path, flags)
