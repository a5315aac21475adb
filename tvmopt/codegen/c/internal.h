/* What the parts of the executor share. All of it is compiled as one unit (model.c), so that
 * nothing but the public interface and three slots that TVM's kernels name is visible outside. */
#ifndef TVMOPT_INTERNAL_H
#define TVMOPT_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define ALIGNMENT 64 /* what kernels assume of every pointer, bytes */
#define MAX_THREADS 1024
#define KERNEL_ERROR_BYTES 192
#define ERROR_BYTES 384

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define ABI(function) JOIN(TVMOPT_NAME, function) /* ABI(run) is NAME_run */

static inline size_t align_up(size_t bytes) {
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* ---- what kernels see: DLPack 1.x and the packed calling convention of TVM FFI 0.1 ---- */

typedef struct {
    int32_t device_type, device_id;
} dl_device;

typedef struct {
    uint8_t code, bits;
    uint16_t lanes;
} dl_type;

typedef struct {
    void *data;
    dl_device device;
    int32_t ndim;
    dl_type dtype;
    int64_t *shape, *strides;
    uint64_t byte_offset;
} dl_tensor;

typedef struct {
    int32_t type_index;
    uint32_t padding;
    union {
        int64_t integer; /* 64 bits also where pointers have 32 */
        double real;
        void *pointer;
    } value;
} ffi_any;

#define FFI_DL_TENSOR 7 /* kTVMFFIDLTensorPtr */

typedef int (*kernel_fn)(void *self, const ffi_any *args, int32_t count, ffi_any *result);

/* ---- the plan's tables, filled in by the generated plan.h ---- */

enum { SPACE_ARENA, SPACE_CONSTANT, SPACE_INPUT, SPACE_OUTPUT };

typedef struct {
    uint64_t offset; /* in the space's memory, bytes */
    uint32_t shape;  /* the first of its lengths in plan_shapes */
    uint16_t port;   /* which input or output, for those spaces */
    uint8_t space, ndim;
    uint8_t type_code, type_bits; /* as in dl_type */
} plan_argument;

typedef struct {
    uint32_t kernel;         /* in plan_kernels */
    uint32_t first_argument; /* in plan_arguments */
    uint32_t arguments;
    uint32_t layer; /* its name's offset in plan_names */
} plan_step;

typedef struct {
    uint32_t first_step, steps;
} plan_block;

typedef struct {
    char name[20];
    uint32_t leaf, subleaf; /* x86: CPUID leaf; Arm: leaf is the auxv type */
    uint32_t word;          /* x86: which of eax, ebx, ecx, edx */
    uint32_t mask;
    uint32_t os_state; /* x86: bits of XCR0 that the system must save */
} cpu_feature;

/* ---- the executor's parts ---- */

typedef struct ABI(instance) instance_t;
typedef struct scratch_block scratch_block;

/* Workspace of one thread: a stack, and single blocks from the heap where it is too small. */
typedef struct {
    unsigned char *base;
    size_t capacity, used; /* of the stack, bytes */
    size_t live, peak;     /* held now, and at most so far, heap included, bytes */
    size_t top;            /* offset of the uppermost block, if used > 0 */
    scratch_block *heap;
} scratch_t;

typedef struct {
    instance_t *instance;
    scratch_t scratch;
    bool in_task; /* a parallel loop inside a task runs serially */
    int32_t index;
} worker_t;

typedef struct {
    void *sync_handle;
    int32_t num_task;
} task_group; /* TVMParallelGroupEnv */

typedef int (*task_fn)(int task, task_group *group, void *closure);

/* Which of its own tasks a thread, or one that helps it, takes next. The launch's number is in the
 * upper half: a thread that comes late cannot take a task of one launch for that of another. */
typedef struct {
    _Atomic uint64_t claims;
    unsigned char apart[64 - sizeof(uint64_t)]; /* no two threads write to one cache line */
} task_list;

typedef struct {
    int32_t threads, started; /* with the caller's own; how many were created */
    bool spin;                /* false where threads outnumber the CPUs we may use */
    pthread_t *handles;
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    task_list *lists; /* one a thread */
    _Atomic uint32_t launch; /* the last one's number */
    atomic_int pending, sleepers, failures;
    atomic_bool caller_sleeps, stop;
    _Atomic(task_fn) task;
    _Atomic(void *) closure;
} pool_t;

struct ABI(instance) {
    pool_t pool;
    worker_t *workers; /* one a thread, [0] for the caller's */
    unsigned char *arena, *staging;
    atomic_flag running, kernel_failed;
    pid_t owner;
    tvmopt_step_fn on_step;
    void *user;
    double *seconds;
    char error[ERROR_BYTES], kernel_error[KERNEL_ERROR_BYTES];
    int64_t shapes[PLAN_SHAPES];
    dl_tensor tensors[PLAN_ARGUMENTS];
    ffi_any values[PLAN_ARGUMENTS];
};

/* Kernels get no context, so the thread remembers for whom it works. */
static _Thread_local worker_t *current;

#endif
