/* A few threads for parallel loops. They wait for the next loop by spinning, for the gap between
 * two loops of one run is mostly shorter than a wake-up, and sleep when none comes for SPIN_NS. */
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

#define SPIN_NS 100000
#define SPINS_PER_LOOK 32 /* reading the clock costs about as much as a few pauses */

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

static bool has_work(pool_t *pool, unsigned seen) {
    return atomic_load(&pool->round) != seen || atomic_load(&pool->stop);
}

static bool spin_for_work(pool_t *pool, unsigned seen) {
    const int64_t end = monotonic_ns() + SPIN_NS;
    do {
        for (int i = 0; i < SPINS_PER_LOOK; i++) {
            if (has_work(pool, seen)) return true;
            pause_cpu();
        }
    } while (monotonic_ns() < end);
    return false;
}

static void wait_for_work(pool_t *pool, unsigned seen) {
    if (pool->spin && spin_for_work(pool, seen)) return;
    pthread_mutex_lock(&pool->lock);
    /* Count ourselves before looking again: the caller bumps the round before it counts. */
    atomic_fetch_add(&pool->sleepers, 1);
    while (!has_work(pool, seen)) pthread_cond_wait(&pool->work, &pool->lock);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->lock);
}

static void run_task(worker_t *worker, pool_t *pool) {
    task_group group = {.num_task = pool->threads};
    worker->in_task = true;
    if (pool->task(worker->index, &group, pool->closure) != 0) atomic_fetch_add(&pool->failures, 1);
    worker->in_task = false;
}

static void finish_task(pool_t *pool) {
    if (atomic_fetch_sub(&pool->pending, 1) != 1 || !atomic_load(&pool->caller_sleeps)) return;
    pthread_mutex_lock(&pool->lock);
    pthread_cond_signal(&pool->done);
    pthread_mutex_unlock(&pool->lock);
}

static void *worker_main(void *argument) {
    worker_t *worker = argument;
    pool_t *pool = &worker->instance->pool;
    current = worker;
    for (unsigned seen = 0;; seen++) {
        wait_for_work(pool, seen);
        if (atomic_load(&pool->stop)) return NULL;
        run_task(worker, pool);
        finish_task(pool);
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

/* Run ``task`` once a thread, the caller's included. Returns 0, or -1 if a task failed. */
static int pool_launch(worker_t *caller, task_fn task, void *closure) {
    pool_t *pool = &caller->instance->pool;
    if (pool->threads == 1 || caller->in_task) {
        task_group alone = {.num_task = 1};
        return task(0, &alone, closure) == 0 ? 0 : -1;
    }
    pool->task = task;
    pool->closure = closure;
    atomic_store(&pool->failures, 0);
    atomic_store(&pool->pending, pool->threads - 1);
    atomic_fetch_add(&pool->round, 1);
    if (atomic_load(&pool->sleepers) > 0) {
        pthread_mutex_lock(&pool->lock);
        pthread_cond_broadcast(&pool->work);
        pthread_mutex_unlock(&pool->lock);
    }
    run_task(caller, pool);
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
    if (!pool->handles) return false;
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
    pthread_cond_destroy(&pool->done);
    pthread_cond_destroy(&pool->work);
    pthread_mutex_destroy(&pool->lock);
}
