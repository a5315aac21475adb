/* A few threads for parallel loops. They wait for the next loop by spinning, for the gap between
 * two loops of one run is mostly shorter than a wake-up, and sleep when none comes for SPIN_NS.
 *
 * A loop is cut into a few tasks a thread, and threads claim them one by one: first their own, then
 * those of others. So a thread finds in its core's caches what it used in the last run, weights for
 * one, and a thread that the system runs late, because others use its core, delays a loop by one
 * task at most: the rest is taken from it. Neighbouring tasks belong to different threads, for a
 * short loop fills the first tasks only. */
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#define SPIN_NS 100000
#define SPINS_PER_LOOK 32 /* reading the clock costs about as much as a few pauses */
#define TASKS_PER_THREAD 4

static int64_t monotonic_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static inline void pause_cpu(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__arm__)
    __asm__ volatile("yield" ::: "memory");
#endif
}

static uint32_t launch_of(uint64_t claims) { return (uint32_t)(claims >> 32); }

static bool has_work(pool_t *pool, uint32_t seen) {
    return atomic_load(&pool->launch) != seen || atomic_load(&pool->stop);
}

static bool spin_for_work(pool_t *pool, uint32_t seen) {
    const int64_t end = monotonic_ns() + SPIN_NS;
    do {
        for (int i = 0; i < SPINS_PER_LOOK; i++) {
            if (has_work(pool, seen)) return true;
            pause_cpu();
        }
    } while (monotonic_ns() < end);
    return false;
}

static void wait_for_work(pool_t *pool, uint32_t seen) {
    if (pool->spin && spin_for_work(pool, seen)) return;
    pthread_mutex_lock(&pool->lock);
    /* Count ourselves before looking again: the caller numbers the launch before it counts. */
    atomic_fetch_add(&pool->sleepers, 1);
    while (!has_work(pool, seen)) pthread_cond_wait(&pool->work, &pool->lock);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->lock);
}

static int32_t task_count(const pool_t *pool) { return pool->threads * TASKS_PER_THREAD; }

/* Return the next of a thread's own tasks of that launch, or -1 if all are taken or another launch
 * has begun. */
static int32_t claim_of(pool_t *pool, int32_t owner, uint32_t launch) {
    _Atomic uint64_t *const list = &pool->lists[owner].claims;
    uint64_t claims = atomic_load(list);
    do {
        if (launch_of(claims) != launch || (uint32_t)claims >= TASKS_PER_THREAD) return -1;
    } while (!atomic_compare_exchange_weak(list, &claims, claims + 1));
    return (int32_t)(uint32_t)claims * pool->threads + owner;
}

static int32_t claim_task(pool_t *pool, int32_t thread, uint32_t launch) {
    for (int32_t i = 0; i < pool->threads; i++) {
        const int32_t task = claim_of(pool, (thread + i) % pool->threads, launch);
        if (task >= 0) return task;
    }
    return -1;
}

static void finish_task(pool_t *pool) {
    if (atomic_fetch_sub(&pool->pending, 1) != 1 || !atomic_load(&pool->caller_sleeps)) return;
    pthread_mutex_lock(&pool->lock);
    pthread_cond_signal(&pool->done);
    pthread_mutex_unlock(&pool->lock);
}

/* Do tasks of that launch until none is left. Once one is claimed, the launch cannot end, so what
 * was read of it before the claim is its own. */
static void run_tasks(worker_t *worker, pool_t *pool, uint32_t launch) {
    task_group group = {.num_task = task_count(pool)};
    worker->in_task = true;
    for (;;) {
        const task_fn task = atomic_load(&pool->task);
        void *const closure = atomic_load(&pool->closure);
        const int32_t index = claim_task(pool, worker->index, launch);
        if (index < 0) break;
        if (task(index, &group, closure) != 0) atomic_fetch_add(&pool->failures, 1);
        finish_task(pool);
    }
    worker->in_task = false;
}

static void *worker_main(void *argument) {
    worker_t *worker = argument;
    pool_t *pool = &worker->instance->pool;
    current = worker;
    for (uint32_t seen = 0;;) {
        wait_for_work(pool, seen);
        if (atomic_load(&pool->stop)) return NULL;
        seen = atomic_load(&pool->launch);
        run_tasks(worker, pool, seen);
    }
}

static void wait_until_done(pool_t *pool) {
    const int64_t end = pool->spin ? monotonic_ns() + SPIN_NS : 0;
    do {
        for (int i = 0; i < SPINS_PER_LOOK; i++) {
            if (atomic_load(&pool->pending) == 0) return;
            pause_cpu();
        }
    } while (pool->spin && monotonic_ns() < end);
    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->caller_sleeps, true);
    while (atomic_load(&pool->pending) != 0) pthread_cond_wait(&pool->done, &pool->lock);
    atomic_store(&pool->caller_sleeps, false);
    pthread_mutex_unlock(&pool->lock);
}

/* Run all tasks of a loop on all threads, the caller's included. Returns 0, or -1 if one failed. */
static int pool_launch(worker_t *caller, task_fn task, void *closure) {
    pool_t *pool = &caller->instance->pool;
    if (pool->threads == 1 || caller->in_task) {
        task_group alone = {.num_task = 1};
        return task(0, &alone, closure) == 0 ? 0 : -1;
    }
    const uint32_t launch = atomic_load(&pool->launch) + 1;
    atomic_store(&pool->task, task);
    atomic_store(&pool->closure, closure);
    atomic_store(&pool->failures, 0);
    atomic_store(&pool->pending, task_count(pool));
    for (int32_t i = 0; i < pool->threads; i++)
        atomic_store(&pool->lists[i].claims, (uint64_t)launch << 32);
    atomic_store(&pool->launch, launch);
    if (atomic_load(&pool->sleepers) > 0) {
        pthread_mutex_lock(&pool->lock);
        pthread_cond_broadcast(&pool->work);
        pthread_mutex_unlock(&pool->lock);
    }
    run_tasks(caller, pool, launch);
    wait_until_done(pool);
    return atomic_load(&pool->failures) == 0 ? 0 : -1;
}

static int32_t usable_cpus(void) {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : MAX_THREADS;
}

/* Signals belong to the program's own threads, so ours start with all of them blocked. */
static bool pool_start(pool_t *pool, worker_t *workers, int32_t threads) {
    sigset_t all, before;
    pool->threads = threads;
    pool->spin = threads <= usable_cpus();
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work, NULL);
    pthread_cond_init(&pool->done, NULL);
    if (threads == 1) return true;
    pool->handles = calloc((size_t)threads - 1, sizeof *pool->handles);
    pool->lists = calloc((size_t)threads, sizeof *pool->lists);
    if (!pool->handles || !pool->lists) return false;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (pool->started < threads - 1) {
        worker_t *worker = &workers[pool->started + 1];
        if (pthread_create(&pool->handles[pool->started], NULL, worker_main, worker) != 0) break;
        pool->started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return pool->started == threads - 1;
}

static void pool_stop(pool_t *pool) {
    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->stop, true);
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    for (int32_t i = 0; i < pool->started; i++) pthread_join(pool->handles[i], NULL);
    free(pool->handles);
    free(pool->lists);
    pthread_cond_destroy(&pool->done);
    pthread_cond_destroy(&pool->work);
    pthread_mutex_destroy(&pool->lock);
}
